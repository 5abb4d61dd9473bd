//! Burn's dispatching tensor, taken apart.

use std::mem::transmute;

use burn_dispatch::{DispatchTensor, DispatchTensorKind};

/// Which backend's tensor it is, and that tensor.
///
/// Burn's dispatching tensor is a struct around one private field, this enum; it offers no way to the backend's
/// tensor inside, nor another way to make one.
pub fn into_kind(tensor: DispatchTensor) -> DispatchTensorKind {
    // SAFETY: `DispatchTensor` holds a `DispatchTensorKind`, and the compiler checks here that both have one size: so
    // the field starts at 0 and there is no other with a size. The version of `burn-dispatch` is exact in Cargo.toml.
    unsafe { transmute::<DispatchTensor, DispatchTensorKind>(tensor) }
}

/// The dispatching tensor of a backend's.
pub fn from_kind(kind: DispatchTensorKind) -> DispatchTensor {
    // SAFETY: as in `into_kind`.
    unsafe { transmute::<DispatchTensorKind, DispatchTensor>(kind) }
}
