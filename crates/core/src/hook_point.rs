//! Names of the places in a language model where activations can be read and changed.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// A linear map of a transformer block: where adapters attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Site {
    /// Query projection.
    Q,
    /// Key projection.
    K,
    /// Value projection.
    V,
    /// Attention output projection.
    O,
    /// Gate projection of a gated MLP.
    Gate,
    /// Up projection of the MLP; the first of its two maps where there is no gate.
    Up,
    /// Down projection of the MLP.
    Down,
}

impl Site {
    /// All seven sites, in forward order.
    pub const ALL: [Self; 7] = [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];

    /// The module's name in Hugging Face's Llama and in PEFT's `target_modules`.
    pub fn module(self) -> &'static str {
        match self {
            Self::Q => "q_proj",
            Self::K => "k_proj",
            Self::V => "v_proj",
            Self::O => "o_proj",
            Self::Gate => "gate_proj",
            Self::Up => "up_proj",
            Self::Down => "down_proj",
        }
    }

    /// The module's path inside a layer: `self_attn.q_proj`.
    pub fn path(self) -> String {
        let block = match self {
            Self::Q | Self::K | Self::V | Self::O => "self_attn",
            Self::Gate | Self::Up | Self::Down => "mlp",
        };
        format!("{block}.{}", self.module())
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.module())
    }
}

impl FromStr for Site {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|site| site.module() == s)
            .ok_or_else(|| Error::Site(s.to_owned()))
    }
}

/// Some of the seven sites: which linear maps a model has in each block.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sites(u8);

impl Sites {
    /// All seven: a gated MLP.
    pub const ALL: Self = Self(0b111_1111);
    /// All but the gate: an MLP of two maps (GPT-2, GPT-NeoX).
    pub const UNGATED: Self = Self(0b110_1111);
    /// The attention's four: a mixture of experts, whose maps each see some of the tokens and are no sites.
    pub const ATTENTION: Self = Self(0b000_1111);
    /// None of them.
    pub const NONE: Self = Self(0);

    /// These sites.
    pub fn of(sites: impl IntoIterator<Item = Site>) -> Self {
        Self(sites.into_iter().fold(0, |bits, site| bits | 1 << site as u8))
    }

    /// Whether this is one of them.
    pub fn contains(self, site: Site) -> bool {
        self.0 & (1 << site as u8) != 0
    }

    /// The sites in forward order.
    pub fn iter(self) -> impl Iterator<Item = Site> {
        Site::ALL.into_iter().filter(move |&site| self.contains(site))
    }
}

impl fmt::Debug for Sites {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl fmt::Display for Sites {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.iter().map(Site::module).collect();
        f.write_str(&names.join(", "))
    }
}

/// A named activation. Its printed form is TransformerLens' string, so that files and papers match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HookPoint {
    /// Token embeddings, scaled where the model scales them, before learned positions; `[token, d_model]`.
    Embed,
    /// Residual stream before block `layer`, `[token, d_model]`.
    ResidPre(usize),
    /// Queries after their norm and rotary embedding, `[token, head, d_head]`.
    Q(usize),
    /// Keys after their norm and rotary embedding, `[token, kv_head, d_head]`.
    K(usize),
    /// Values, `[token, kv_head, d_head]`.
    V(usize),
    /// Attention-weighted values of each head, `[token, head, d_head]`.
    Z(usize),
    /// What the attention adds to the stream, after a norm behind it; `[token, d_model]`.
    AttnOut(usize),
    /// Residual stream with the attention's share and without the MLP's, `[token, d_model]`. Where both read the stream
    /// before the block (GPT-NeoX), the MLP does not see it.
    ResidMid(usize),
    /// Input of the MLP's down projection, `[token, d_mlp]`; of a mixture of experts, those of each token's experts one
    /// after another, in the router's order.
    MlpPost(usize),
    /// What the MLP adds to the stream, after a norm behind it; `[token, d_model]`.
    MlpOut(usize),
    /// Residual stream after block `layer`, `[token, d_model]`.
    ResidPost(usize),
    /// The final norm's output, which the unembedding reads, `[token, d_model]`.
    FinalNorm,
    /// Input of a linear map, `[token, d_in]`; the hook sees its output too, and returns the one to use.
    LinearIn {
        /// The block.
        layer: usize,
        /// The linear map in it.
        site: Site,
    },
}

impl HookPoint {
    /// The block that this point lies in; none for the embedding and the final norm.
    pub fn layer(self) -> Option<usize> {
        match self {
            Self::Embed | Self::FinalNorm => None,
            Self::ResidPre(layer)
            | Self::Q(layer)
            | Self::K(layer)
            | Self::V(layer)
            | Self::Z(layer)
            | Self::AttnOut(layer)
            | Self::ResidMid(layer)
            | Self::MlpPost(layer)
            | Self::MlpOut(layer)
            | Self::ResidPost(layer)
            | Self::LinearIn { layer, .. } => Some(layer),
        }
    }

    /// Every point of a block, in forward order.
    pub fn of_layer(layer: usize) -> Vec<Self> {
        let site = |site| Self::LinearIn { layer, site };
        vec![
            Self::ResidPre(layer),
            site(Site::Q),
            site(Site::K),
            site(Site::V),
            Self::Q(layer),
            Self::K(layer),
            Self::V(layer),
            Self::Z(layer),
            site(Site::O),
            Self::AttnOut(layer),
            Self::ResidMid(layer),
            site(Site::Gate),
            site(Site::Up),
            Self::MlpPost(layer),
            site(Site::Down),
            Self::MlpOut(layer),
            Self::ResidPost(layer),
        ]
    }
}

impl fmt::Display for HookPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embed => write!(f, "hook_embed"),
            Self::ResidPre(l) => write!(f, "blocks.{l}.hook_resid_pre"),
            Self::Q(l) => write!(f, "blocks.{l}.attn.hook_rot_q"),
            Self::K(l) => write!(f, "blocks.{l}.attn.hook_rot_k"),
            Self::V(l) => write!(f, "blocks.{l}.attn.hook_v"),
            Self::Z(l) => write!(f, "blocks.{l}.attn.hook_z"),
            Self::AttnOut(l) => write!(f, "blocks.{l}.hook_attn_out"),
            Self::ResidMid(l) => write!(f, "blocks.{l}.hook_resid_mid"),
            Self::MlpPost(l) => write!(f, "blocks.{l}.mlp.hook_post"),
            Self::MlpOut(l) => write!(f, "blocks.{l}.hook_mlp_out"),
            Self::ResidPost(l) => write!(f, "blocks.{l}.hook_resid_post"),
            Self::FinalNorm => write!(f, "ln_final.hook_normalized"),
            Self::LinearIn { layer, site } => write!(f, "blocks.{layer}.{site}.hook_in"),
        }
    }
}

impl FromStr for HookPoint {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self, Error> {
        let unknown = || Error::HookPoint(s.to_owned());
        match s {
            "hook_embed" => return Ok(Self::Embed),
            "ln_final.hook_normalized" => return Ok(Self::FinalNorm),
            _ => {}
        }
        let (layer, name) = s
            .strip_prefix("blocks.")
            .and_then(|rest| rest.split_once('.'))
            .ok_or_else(unknown)?;
        let layer = layer.parse().map_err(|_| unknown())?;
        match name {
            "hook_resid_pre" => Ok(Self::ResidPre(layer)),
            "attn.hook_rot_q" => Ok(Self::Q(layer)),
            "attn.hook_rot_k" => Ok(Self::K(layer)),
            "attn.hook_v" => Ok(Self::V(layer)),
            "attn.hook_z" => Ok(Self::Z(layer)),
            "hook_attn_out" => Ok(Self::AttnOut(layer)),
            "hook_resid_mid" => Ok(Self::ResidMid(layer)),
            "mlp.hook_post" => Ok(Self::MlpPost(layer)),
            "hook_mlp_out" => Ok(Self::MlpOut(layer)),
            "hook_resid_post" => Ok(Self::ResidPost(layer)),
            _ => {
                let site = name.strip_suffix(".hook_in").ok_or_else(unknown)?;
                Ok(Self::LinearIn {
                    layer,
                    site: site.parse().map_err(|_| unknown())?,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_sites_hold_what_they_say() {
        assert_eq!(Sites::of(Site::ALL), Sites::ALL);
        assert_eq!(Sites::UNGATED.iter().count(), 6);
        assert!(!Sites::UNGATED.contains(Site::Gate));
        assert_eq!(Sites::ATTENTION.to_string(), "q_proj, k_proj, v_proj, o_proj");
        assert_eq!(
            Sites::of([Site::Down, Site::Q]).iter().collect::<Vec<_>>(),
            [Site::Q, Site::Down]
        );
        assert_eq!(Sites::NONE.iter().next(), None);
    }

    #[test]
    fn every_point_prints_and_parses_to_itself() {
        let mut points = HookPoint::of_layer(12);
        points.extend([HookPoint::Embed, HookPoint::FinalNorm]);
        for point in points {
            assert_eq!(point.to_string().parse::<HookPoint>().unwrap(), point);
        }
        assert!("blocks.x.hook_resid_pre".parse::<HookPoint>().is_err());
        assert!("blocks.1.attn.hook_k_proj".parse::<HookPoint>().is_err());
    }
}
