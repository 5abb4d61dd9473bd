//! How CubeCL is configured: where it keeps what its kernels learned, and memory.

use std::path::PathBuf;
use std::sync::Arc;

use burn_cubecl::cubecl::config::cache::CacheConfig;
use burn_cubecl::cubecl::config::memory::PersistentMemory;
use burn_cubecl::cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};

/// The folders of what tuning found and of compiled kernels, where these are kept. To be called before a device is
/// used: CubeCL reads its configuration once.
pub(crate) fn set(tuning: PathBuf, kernels: Option<PathBuf>) {
    super::refusals::listen();
    // A `cubecl.toml` of the working folder and CubeCL's own variables count, but for the folders.
    let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
    config.autotune.cache = CacheConfig::File(tuning);
    config.compilation.cache = kernels.map(CacheConfig::File);
    // Else memory comes in pages of up to a quarter of the device, of which one tensor may use a fifth. What is free
    // goes back as layers are asked for (`device::Releases`).
    config.memory.persistent_memory = PersistentMemory::Enforced;
    let mut storage = CubeClRuntimeConfig::storage().lock();
    if storage.is_none() {
        *storage = Some(Arc::new(config));
    }
}
