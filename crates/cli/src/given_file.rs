//! Reading a file that the command line names, whatever it is: a file, a pipe, a device.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use distorch_allocation::ByteSize;
use distorch_runtime::heap;

/// The most bytes of a workflow, or of a picture that carries one.
const MOST: u64 = 1 << 30;

/// All bytes of a file. A pipe may be one that a shell made (`<(command)`).
///
/// # Errors
/// When it cannot be read, is larger than any workflow, or is a pipe that nobody writes to.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    all_of(open(path)?)
}

/// All bytes of a source.
///
/// # Errors
/// As [`read`].
pub fn all_of(source: impl Read) -> io::Result<Vec<u8>> {
    up_to(MOST, source)
}

fn up_to(most: u64, source: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // It asks for memory in a way that may fail.
    heap::fallible(|| source.take(most + 1).read_to_end(&mut bytes))?;
    match bytes.len() as u64 > most {
        true => {
            let most = ByteSize(most);
            Err(io::Error::other(format!("it is larger than {most}, which no workflow is")))
        }
        false => Ok(bytes),
    }
}

/// Opens a file to be read from its beginning. A pipe is waited for, but not for ever: a system opens
/// one only once somebody writes to it.
#[cfg(unix)]
fn open(path: &Path) -> io::Result<impl Read> {
    use std::fs::OpenOptions;
    use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
    use std::thread::sleep;
    use std::time::{Duration, Instant};

    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    const PATIENCE: Duration = Duration::from_secs(10);

    let nonblocking = OFlag::O_NONBLOCK.bits();
    let mut file: File = OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    let mut first = [0];
    let mut begun: &[u8] = &[];
    if file.metadata()?.file_type().is_fifo() {
        let asked = Instant::now();
        loop {
            match file.read(&mut first) {
                // Nobody writes yet, or any more.
                Ok(0) if asked.elapsed() < PATIENCE => sleep(Duration::from_millis(20)),
                Ok(0) => return Err(io::Error::other("it is a pipe that nobody writes to")),
                Ok(_) => {
                    begun = &[0];
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
    }
    fcntl(&file, FcntlArg::F_SETFL(OFlag::empty()))?;
    let begun = if begun.is_empty() { Vec::new() } else { first.to_vec() };
    Ok(io::Cursor::new(begun).chain(file))
}

#[cfg(not(unix))]
fn open(path: &Path) -> io::Result<impl Read> {
    File::open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_read_than_any_workflow_has() {
        assert_eq!(up_to(2, &b"{}"[..]).unwrap(), b"{}");
        let error = up_to(1 << 20, io::repeat(b' ')).unwrap_err();
        assert_eq!(error.to_string(), "it is larger than 1.00 MiB, which no workflow is");
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_is_read_once_somebody_writes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let to = path.clone();
        let writer = std::thread::spawn(move || std::fs::write(to, b"{\"1\": {}}"));
        assert_eq!(read(&path).unwrap(), b"{\"1\": {}}");
        writer.join().unwrap().unwrap();
    }
}
