//! Every operation's special bodies against the reference bodies, and both against mathematics.
//!
//! The ndarray backend has no special body, so what runs there is the reference composition of burn operations.

mod any_shape;
mod attention;
mod determinism;
mod gradients;
mod misuse;
mod numbers;
mod operations;
mod packed;
