//! Weights on Burn devices.
