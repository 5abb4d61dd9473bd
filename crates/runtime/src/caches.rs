//! What the accelerators' backend keeps on disk from one run to the next: which of its kernels were fastest for
//! which sizes, and the kernels as compiled.
//!
//! CubeCL tries out kernels when it meets a new size, and compiles what it launches, which takes longer than a
//! picture does. Both are kept in a folder of the user's cache, or the one that [`VARIABLE`] names. A folder that
//! cannot be written to is no error: the run does without.
//!
//! CubeCL trusts what it finds. So results are kept apart by the accelerators and drivers that they were measured
//! with, compiled kernels by the build of this program as well; and a run that [ends](seal) writes down
//! checksums, without which the next one does not use the compiled kernels: half of a kernel, or one that was
//! changed on disk, never reaches a driver.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use distorch_allocation::DeviceKind;

use crate::devices::Survey;

/// The environment variable that names the folder of the caches. Empty, it turns them off.
pub const VARIABLE: &str = "DISTORCH_CACHE_DIR";

/// So long is nothing vouched for anew in the middle of a run.
const BETWEEN_SEALINGS: Duration = Duration::from_secs(10);

/// So often the end of a run tries to vouch for what a kernel is being written to.
const SEALINGS: usize = 5;

/// What writing a kernel takes.
const WRITING: Duration = Duration::from_millis(30);

/// The folder that a run uses, once it is known.
static KEPT: OnceLock<Caches> = OnceLock::new();

/// So many builds of this program keep their compiled kernels.
const BUILDS: usize = 4;

/// Whether there are caches, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caches {
    /// In folders below the user's.
    Kept {
        /// Which kernels were fastest.
        tuning: PathBuf,
        /// Kernels as compiled; `None` where the backend could take one GPU's for another's.
        kernels: Option<PathBuf>,
    },
    /// Nowhere, and why.
    Off(String),
}

/// The user's folder for the caches: what [`VARIABLE`] says, else `distorch` in the platform's folder for
/// caches (`XDG_CACHE_HOME`, `~/.cache`).
///
/// # Errors
/// Why there is none.
pub fn folder() -> Result<PathBuf, String> {
    choose(std::env::var_os(VARIABLE).map(PathBuf::from), platform_folder())
}

fn choose(named: Option<PathBuf>, platform: Option<PathBuf>) -> Result<PathBuf, String> {
    match named {
        Some(named) if named.as_os_str().is_empty() => Err(format!("{VARIABLE} is empty")),
        Some(named) => std::path::absolute(named).map_err(|error| format!("{VARIABLE}: {error}")),
        None => platform.map(|cache| cache.join("distorch")).ok_or_else(|| {
            format!("the system names no folder for caches; {VARIABLE} may name one")
        }),
    }
}

#[cfg(any(feature = "cuda", feature = "rocm", feature = "vulkan", feature = "metal"))]
fn platform_folder() -> Option<PathBuf> {
    dirs::cache_dir()
}

#[cfg(not(any(feature = "cuda", feature = "rocm", feature = "vulkan", feature = "metal")))]
fn platform_folder() -> Option<PathBuf> {
    None
}

/// Has the accelerators' backend keep its caches, before anything is computed on one: later calls change nothing.
/// What `survey` found says which results may be used. Without an accelerator nothing is written.
pub fn keep(survey: &Survey) -> &'static Caches {
    KEPT.get_or_init(|| {
        let caches = match key(survey) {
            None => Caches::Off("there is no accelerator".to_owned()),
            Some(key) => {
                folder().and_then(|folder| prepare(&folder, &key)).unwrap_or_else(Caches::Off)
            }
        };
        configure(&caches);
        caches
    })
}

/// Ends the run's use of the caches: writes down what they hold, so that the next run can trust it.
///
/// What cannot be written is not trusted; so nothing is told.
pub fn seal() {
    if let Some(Caches::Kept { kernels: Some(kernels), .. }) = KEPT.get() {
        for _ in 0..SEALINGS {
            if write_seals(kernels).is_ok() {
                return;
            }
            std::thread::sleep(WRITING);
        }
    }
}

/// As [`seal`], in the middle of a run, so that one that is killed later leaves what it compiled until now: every ten
/// seconds at most, and not while a kernel is being written.
pub(crate) fn seal_meanwhile() {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);

    let Some(Caches::Kept { kernels: Some(kernels), .. }) = KEPT.get() else { return };
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    let begun = last.get_or_insert_with(Instant::now);
    if begun.elapsed() >= BETWEEN_SEALINGS && write_seals(kernels).is_ok() {
        *begun = Instant::now();
    }
}

/// The accelerators that results are good for.
struct Key {
    /// The name of their folder.
    machine: String,
    /// Whether one compiled kernel is good for all of them.
    alike: bool,
}

fn key(survey: &Survey) -> Option<Key> {
    let accelerators = survey
        .devices
        .iter()
        .filter(|device| !device.info.simulated && device.info.id.kind() != DeviceKind::Cpu);
    let (mut text, mut cuda, mut rocm) = (String::new(), Vec::new(), Vec::new());
    for device in accelerators {
        let kind = device.info.id.kind();
        text += &format!("{kind} {} {}\n", device.info.name, device.api);
        match kind {
            DeviceKind::Cuda => cuda.push(&device.api),
            DeviceKind::Rocm => rocm.push(&device.api),
            _ => {}
        }
    }
    if text.is_empty() {
        return None;
    }
    // CubeCL's keys of compiled CUDA and HIP kernels do not say for which architecture they are.
    let alike = [cuda, rocm].iter().all(|apis| apis.windows(2).all(|pair| pair[0] == pair[1]));
    text += &crate::devices::driver_versions();
    // With another level other candidates are tried.
    text += &std::env::var("CUBECL_AUTOTUNE_LEVEL").unwrap_or_default();
    Some(Key { machine: format!("{:016x}", fnv(FNV_START, text.as_bytes())), alike })
}

/// The folders, made and seen to be writable; what in them is not as a run left it is removed.
fn prepare(folder: &Path, key: &Key) -> Result<Caches, String> {
    let machine = folder.join(&key.machine);
    let cannot = |error: io::Error| format!("`{}` cannot be written to: {error}", folder.display());
    fs::create_dir_all(&machine).map_err(cannot)?;
    tempfile::tempfile_in(&machine).map_err(cannot)?;
    let kernels = match (key.alike, build()) {
        (true, Some(build)) => {
            let kernels = machine.join(format!("kernels-{build}"));
            fs::create_dir_all(&kernels).and_then(|()| trust(&kernels)).map_err(cannot)?;
            forget_builds(&machine, &kernels);
            Some(kernels)
        }
        _ => None,
    };
    Ok(Caches::Kept { tuning: machine, kernels })
}

/// This build of the program, as a word: kernels are kept by their names, and another build may have other ones
/// under them.
fn build() -> Option<String> {
    let program = fs::metadata(std::env::current_exe().ok()?).ok()?;
    let made = program.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    let text = format!("{} {} {}", env!("CARGO_PKG_VERSION"), program.len(), made.as_nanos());
    Some(format!("{:016x}", fnv(FNV_START, text.as_bytes())))
}

/// Removes the kernels of builds that were used longest ago. What cannot be removed stays.
fn forget_builds(machine: &Path, current: &Path) {
    let entries = fs::read_dir(machine).into_iter().flatten().flatten();
    let builds =
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("kernels-"));
    let mut builds: Vec<_> = builds
        .map(|entry| entry.path())
        .filter(|path| path != current)
        .filter_map(|path| Some((fs::metadata(path.join(SEALS)).ok()?.modified().ok()?, path)))
        .collect();
    builds.sort_unstable_by(|a, b| b.cmp(a));
    for (_, path) in builds.into_iter().skip(BUILDS - 1) {
        let _ = fs::remove_dir_all(path);
    }
}

/// The file of checksums: `LENGTH CHECKSUM PATH` a line.
const SEALS: &str = "seals";

/// Removes all that the checksums do not vouch for.
fn trust(kernels: &Path) -> io::Result<()> {
    if files(kernels)?.is_empty() || sealed(kernels)? {
        return Ok(());
    }
    fs::remove_dir_all(kernels)?;
    fs::create_dir_all(kernels)
}

/// Whether every file begins as the checksums say. What a run that did not come to its end has added is cut off.
fn sealed(kernels: &Path) -> io::Result<bool> {
    let Ok(seals) = fs::read_to_string(kernels.join(SEALS)) else { return Ok(false) };
    let mut vouched = Vec::new();
    for line in seals.lines() {
        let mut parts = line.splitn(3, ' ');
        let (Some(length), Some(sum), Some(name)) = (parts.next(), parts.next(), parts.next())
        else {
            return Ok(false);
        };
        let (Ok(length), Ok(sum)) = (length.parse::<u64>(), u64::from_str_radix(sum, 16)) else {
            return Ok(false);
        };
        let path = kernels.join(name);
        if checksum(&path, length).ok() != Some((length, sum)) {
            return Ok(false);
        }
        vouched.push((path, length));
    }
    for path in files(kernels)? {
        match vouched.iter().find(|(vouched, _)| *vouched == path) {
            Some((_, length)) => File::options().write(true).open(&path)?.set_len(*length)?,
            None => fs::remove_file(&path)?,
        }
    }
    Ok(true)
}

/// Fails where a kernel is being written.
fn write_seals(kernels: &Path) -> io::Result<()> {
    let mut text = String::new();
    for path in files(kernels)? {
        let (length, sum) = checksum(&path, u64::MAX)?;
        // The backend makes a file of that name while it writes. One that came and went has left more behind.
        let mut lock = path.clone().into_os_string();
        lock.push(".lock");
        if Path::new(&lock).exists() || fs::metadata(&path)?.len() != length {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        let name = path.strip_prefix(kernels).map_err(io::Error::other)?;
        text += &format!("{length} {sum:016x} {}\n", name.display());
    }
    // Whole or not at all.
    let file = tempfile::NamedTempFile::new_in(kernels)?;
    fs::write(file.path(), text)?;
    file.persist(kernels.join(SEALS))?;
    Ok(())
}

/// All files below the folder but the checksums and the backend's locks.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next)? {
            let (entry, path) = entry.map(|entry| (entry.file_type(), entry.path()))?;
            if entry?.is_dir() {
                folders.push(path);
            } else if path != folder.join(SEALS) && path.extension() != Some("lock".as_ref()) {
                found.push(path);
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

const FNV_START: u64 = 0xCBF2_9CE4_8422_2325;

/// FNV-1a.
fn fnv(state: u64, bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(state, |state, byte| (state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3))
}

/// How many of the first `most` bytes there are, and their checksum.
fn checksum(path: &Path, most: u64) -> io::Result<(u64, u64)> {
    let (mut file, mut buffer) = (File::open(path)?.take(most), vec![0; 1 << 16]);
    let (mut length, mut sum) = (0, FNV_START);
    loop {
        let read = file.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
            return Ok((length, sum));
        };
        (length, sum) = (length + read as u64, fnv(sum, bytes));
    }
}

/// Tells CubeCL, which reads its configuration when it is first used and refuses another one then.
#[cfg(any(feature = "cuda", feature = "rocm", feature = "vulkan", feature = "metal"))]
fn configure(caches: &Caches) {
    let (tuning, kernels) = match caches {
        Caches::Kept { tuning, kernels } => (tuning.clone(), kernels.clone()),
        // There is no switch; a folder that cannot be made is not waited for.
        Caches::Off(_) => {
            (std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/dev/null")), None)
        }
    };
    crate::tensor::configuration::set(tuning, kernels);
}

#[cfg(not(any(feature = "cuda", feature = "rocm", feature = "vulkan", feature = "metal")))]
fn configure(_: &Caches) {}

#[cfg(test)]
mod tests {
    use distorch_allocation::{DeviceId, DeviceInfo};

    use super::*;
    use crate::devices::Hardware;

    fn gpu(id: &str, name: &str, api: &str) -> Hardware {
        let id: DeviceId = id.parse().unwrap();
        Hardware {
            info: DeviceInfo::new(id, name, 1 << 30),
            api: api.to_owned(),
            dtypes: vec!["f32"],
        }
    }

    fn key_of(devices: Vec<Hardware>) -> Option<Key> {
        key(&Survey { devices, ..Survey::default() })
    }

    #[test]
    fn the_variable_goes_before_the_platform_and_may_turn_caches_off() {
        let platform = || Some(PathBuf::from("/home/u/.cache"));
        assert_eq!(choose(None, platform()), Ok("/home/u/.cache/distorch".into()));
        assert_eq!(choose(Some("/fast".into()), platform()), Ok("/fast".into()));
        assert!(choose(Some("here".into()), None).unwrap().is_absolute());
        assert!(choose(Some(PathBuf::new()), platform()).unwrap_err().contains(VARIABLE));
        assert!(choose(None, None).unwrap_err().contains("no folder"));
    }

    #[test]
    fn results_are_kept_apart_by_machine() {
        let cpu = || gpu("cpu", "a processor", "flex");
        assert!(key_of(vec![cpu()]).is_none(), "nothing is cached for the host");
        let one = key_of(vec![gpu("cuda:0", "RTX 4090", "CUDA, compute capability 8.9"), cpu()]);
        let other = key_of(vec![gpu("cuda:0", "RTX 3090", "CUDA, compute capability 8.6"), cpu()]);
        let (one, other) = (one.unwrap(), other.unwrap());
        assert!(one.machine != other.machine && one.alike);
        let both = key_of(vec![
            gpu("cuda:0", "RTX 4090", "CUDA, compute capability 8.9"),
            gpu("cuda:1", "RTX 3090", "CUDA, compute capability 8.6"),
        ]);
        assert!(!both.unwrap().alike, "one's kernels are not the other's");
    }

    fn prepared(folder: &Path) -> PathBuf {
        let key = Key { machine: "m".to_owned(), alike: true };
        let Ok(Caches::Kept { tuning, kernels: Some(kernels) }) = prepare(folder, &key) else {
            panic!("no caches")
        };
        assert_eq!(tuning, folder.join("m"));
        kernels
    }

    #[test]
    fn kernels_are_used_again_only_as_a_run_left_them() {
        let folder = tempfile::tempdir().unwrap();
        let kernels = prepared(folder.path());
        let chunk = kernels.join("cuda/0.10.0/ptx/chunk0.cbor");
        let write = |bytes: &[u8]| {
            fs::create_dir_all(chunk.parent().unwrap()).unwrap();
            fs::write(&chunk, bytes).unwrap();
        };
        write(b"kernels");
        write_seals(&kernels).unwrap();
        assert_eq!(prepared(folder.path()), kernels);
        assert_eq!(fs::read(&chunk).unwrap(), b"kernels", "they are as they were left");
        write(b"kernels and half of ano");
        fs::write(kernels.join("stray"), b"?").unwrap();
        prepared(folder.path());
        assert_eq!(fs::read(&chunk).unwrap(), b"kernels", "a run that was killed added the rest");
        assert!(!kernels.join("stray").exists());
        write(b"kernals");
        prepared(folder.path());
        assert!(!chunk.exists(), "a bit is wrong");
        write(b"kernels");
        prepared(folder.path());
        assert!(!chunk.exists(), "nothing vouches for it");
        write(b"kernels");
        fs::write(kernels.join(SEALS), "no seal at all").unwrap();
        prepared(folder.path());
        assert!(!chunk.exists(), "the seals are spoilt");
    }

    #[test]
    fn old_builds_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        for build in 0..6 {
            let kernels = folder.path().join(format!("m/kernels-{build}"));
            fs::create_dir_all(&kernels).unwrap();
            write_seals(&kernels).unwrap();
            let old =
                std::time::SystemTime::now() - std::time::Duration::from_secs(3600 * (6 - build));
            File::options()
                .write(true)
                .open(kernels.join(SEALS))
                .unwrap()
                .set_modified(old)
                .unwrap();
        }
        prepared(folder.path());
        let there = |build: u32| folder.path().join(format!("m/kernels-{build}")).exists();
        assert_eq!((0..6).map(there).collect::<Vec<_>>(), [false, false, false, true, true, true]);
    }

    #[test]
    fn a_folder_that_cannot_be_written_to_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, b"").unwrap();
        let key = Key { machine: "m".to_owned(), alike: true };
        let reason = prepare(&file, &key).unwrap_err();
        assert!(reason.contains("cannot be written to"), "{reason}");
    }
}
