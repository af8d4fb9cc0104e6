//! What can be wrong with a name.

/// An unknown name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not a hook point's name.
    #[error("unknown hook point `{0}`; expected a TransformerLens name such as `blocks.3.hook_resid_post`")]
    HookPoint(String),
    /// Not a linear map's name.
    #[error("unknown linear site `{0}`; expected one of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj")]
    Site(String),
}
