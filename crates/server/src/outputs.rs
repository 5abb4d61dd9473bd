//! Results in an object store, for machines that share a queue and no folder.
//!
//! A worker saves files as ever, and puts what a prompt shows into the store; a front end fetches them when somebody
//! wants to see them. Workers count their files each for itself, so that two of them save files of one name: in the
//! store, and for clients, each prompt has a folder of its own, named by its id.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::buffered::BufWriter;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::Value;
use thiserror::Error;
use tokio::io::AsyncWriteExt;
use uuid::Uuid;

use crate::safety::paths::{self, NameError};

/// Bytes of a file that are in memory while it is stored; larger files go in several parts.
const BUFFER: usize = 8 << 20;

/// Why results are not stored or fetched.
#[derive(Debug, Error)]
pub enum OutputsError {
    /// The address is none of a store.
    #[error("`{0}` is no address of a store for results: it is s3://BUCKET or s3://BUCKET/FOLDER")]
    Address(String),
    /// The store failed.
    #[error("results at {address}: {source}")]
    Store {
        /// Where the results are.
        address: String,
        /// What the store said.
        source: object_store::Error,
    },
    /// A file here cannot be read or written.
    #[error("`{}` cannot be stored or fetched: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A node shows a file outside of its folder.
    #[error("`{name}` cannot be stored: {source}")]
    Name {
        /// What the node shows.
        name: String,
        /// What is wrong with it.
        source: NameError,
    },
}

/// A place for results. Copies are the same.
#[derive(Clone, Debug)]
pub struct Outputs {
    store: Arc<dyn ObjectStore>,
    prefix: Key,
    address: String,
}

impl Outputs {
    /// The store at `s3://BUCKET/FOLDER`. Keys, region and the address of a server that is not Amazon's come from the
    /// environment, as with Amazon's own programs: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`,
    /// `AWS_ENDPOINT`; `AWS_ALLOW_HTTP=true` for one without TLS.
    ///
    /// # Errors
    /// Where the address or the environment is not valid. Whether the bucket is there shows when it is used.
    pub fn open(address: &str) -> Result<Self, OutputsError> {
        Self::open_s3(address, AmazonS3Builder::from_env())
    }

    fn open_s3(address: &str, builder: AmazonS3Builder) -> Result<Self, OutputsError> {
        let wrong = || OutputsError::Address(address.to_owned());
        let place = address.strip_prefix("s3://").ok_or_else(wrong)?;
        let (bucket, folder) = place.split_once('/').unwrap_or((place, ""));
        if bucket.is_empty() || bucket.contains(['@', '?', '#']) {
            return Err(wrong());
        }
        install_tls();
        let store = builder.with_bucket_name(bucket).build();
        let address = address.to_owned();
        match store {
            Ok(store) => Ok(Self::in_store(Arc::new(store), folder, address)),
            Err(source) => Err(OutputsError::Store { address, source }),
        }
    }

    /// A folder in a store; the address is for messages.
    pub fn in_store(store: Arc<dyn ObjectStore>, folder: &str, address: String) -> Self {
        Self { store, prefix: Key::from(folder), address }
    }

    /// Stores the files of the folder of results that an output node of a prompt shows. Returns what it shows with the
    /// subfolders that they have in the store.
    ///
    /// # Errors
    /// Where a file cannot be read, or the store fails.
    pub async fn store(
        &self,
        prompt: Uuid,
        folder: &Path,
        shown: &Value,
    ) -> Result<Value, OutputsError> {
        let mut shown = shown.clone();
        let lists = shown.as_object_mut().into_iter().flat_map(|map| map.values_mut());
        for item in lists.filter_map(Value::as_array_mut).flatten() {
            let text = |key: &str| item[key].as_str();
            if text("type") != Some("output") {
                continue;
            }
            let Some(name) = text("filename") else { continue };
            let subfolder = text("subfolder").unwrap_or_default();
            let named = |source| OutputsError::Name { name: format!("{subfolder}/{name}"), source };
            let below = paths::folder(subfolder).map_err(named)?;
            let path = folder.join(&below).join(paths::relative(name).map_err(named)?);
            let below = below.join(prompt.to_string());
            self.upload(&path, self.key(&below, name)).await?;
            item["subfolder"] = Value::String(slashed(&below));
        }
        Ok(shown)
    }

    /// Fetches a result into the folder of results, and returns its path; `None` where the store has none, or its name
    /// leads out of the folder.
    ///
    /// # Errors
    /// Where the file cannot be written, or the store fails.
    pub async fn fetch(
        &self,
        folder: &Path,
        subfolder: &str,
        name: &str,
    ) -> Result<Option<PathBuf>, OutputsError> {
        let (Ok(below), Ok(file)) = (paths::folder(subfolder), paths::relative(name)) else {
            return Ok(None);
        };
        let key = self.key(&below, name);
        let path = folder.join(below).join(file);
        // Before anything is made there: a link may lead out of the folder.
        if !paths::would_be_inside(folder, &path) {
            return Ok(None);
        }
        let found = match self.store.get(&key).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(source) => return Err(self.failed(source)),
        };
        let failed = |source| OutputsError::File { path: path.clone(), source };
        let parent = path.parent().unwrap_or(folder);
        tokio::fs::create_dir_all(parent).await.map_err(failed)?;
        // Under another name until it is whole: others may fetch it or look for it at the same time.
        let temporary = tempfile::NamedTempFile::new_in(parent).map_err(failed)?;
        let mut file = tokio::fs::File::from_std(temporary.reopen().map_err(failed)?);
        let mut parts = found.into_stream();
        while let Some(part) = parts.try_next().await.map_err(|source| self.failed(source))? {
            file.write_all(&part).await.map_err(failed)?;
        }
        file.flush().await.map_err(failed)?;
        temporary.persist(&path).map_err(|error| failed(error.error))?;
        Ok(Some(path))
    }

    async fn upload(&self, path: &Path, key: Key) -> Result<(), OutputsError> {
        let failed = |source| OutputsError::File { path: path.to_owned(), source };
        let mut file = tokio::fs::File::open(path).await.map_err(failed)?;
        let mut writer = BufWriter::with_capacity(Arc::clone(&self.store), key, BUFFER);
        tokio::io::copy(&mut file, &mut writer).await.map_err(failed)?;
        writer.shutdown().await.map_err(failed)
    }

    fn key(&self, below: &Path, name: &str) -> Key {
        let below = slashed(below);
        let parts = below.split('/').filter(|part| !part.is_empty()).chain([name]);
        let parts = parts.map(|part| object_store::path::PathPart::from(part.to_owned()));
        self.prefix.parts().chain(parts).collect()
    }

    fn failed(&self, source: object_store::Error) -> OutputsError {
        OutputsError::Store { address: self.address.clone(), source }
    }
}

/// Says what does TLS: only the first one counts, and all are the same.
fn install_tls() {
    drop(rustls::crypto::ring::default_provider().install_default());
}

/// A path below a folder as clients write it.
fn slashed(path: &Path) -> String {
    let parts = path.components().map(|part| part.as_os_str().to_string_lossy());
    parts.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use object_store::memory::InMemory;
    use serde_json::json;

    use super::*;

    fn shown(name: &str, subfolder: &str, kind: &str) -> Value {
        json!({
            "images": [{ "filename": name, "subfolder": subfolder, "type": kind }],
            "animated": [false],
        })
    }

    /// Two workers that each saved a first picture, and a front end that fetches both.
    async fn two_workers_share(outputs: &Outputs) {
        let (workers, front_end) =
            ([tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()], tempfile::tempdir());
        let front_end = front_end.unwrap();
        // More than a buffer holds, and less.
        let pictures = [vec![7; BUFFER + 100_000], b"a picture".to_vec()];
        for subfolder in ["", "a b/ü%2F"] {
            let mut places = Vec::new();
            for (folder, picture) in workers.iter().zip(&pictures) {
                let file = folder.path().join(subfolder).join("ComfyUI_00001_.png");
                std::fs::create_dir_all(file.parent().unwrap()).unwrap();
                std::fs::write(file, picture).unwrap();
                let shown = shown("ComfyUI_00001_.png", subfolder, "output");
                let prompt = Uuid::new_v4();
                let stored = outputs.store(prompt, folder.path(), &shown).await.unwrap();
                let place = stored["images"][0]["subfolder"].as_str().unwrap().to_owned();
                assert_eq!(place, format!("{subfolder}/{prompt}").trim_start_matches('/'));
                let mut expected = shown;
                expected["images"][0]["subfolder"] = json!(place);
                assert_eq!(stored, expected);
                places.push(place);
            }
            for (place, picture) in places.iter().zip(&pictures) {
                let fetched =
                    outputs.fetch(front_end.path(), place, "ComfyUI_00001_.png").await.unwrap();
                let path = front_end.path().join(place).join("ComfyUI_00001_.png");
                assert_eq!(fetched.as_ref(), Some(&path));
                assert!(std::fs::read(path).unwrap() == *picture);
                let missing = outputs.fetch(front_end.path(), place, "ComfyUI_00002_.png").await;
                assert_eq!(missing.unwrap(), None);
            }
        }
    }

    #[tokio::test]
    async fn results_of_two_workers_are_kept_apart() {
        let store = Arc::new(InMemory::new());
        for folder in ["", "pictures/of today"] {
            let outputs = Outputs::in_store(store.clone(), folder, "memory".to_owned());
            two_workers_share(&outputs).await;
        }
    }

    #[tokio::test]
    async fn only_results_in_their_folder_are_stored() {
        let outputs = Outputs::in_store(Arc::new(InMemory::new()), "", "memory".to_owned());
        let folder = tempfile::tempdir().unwrap();
        let prompt = Uuid::new_v4();
        for shown in [shown("a.png", "", "temp"), json!({ "text": ["a"] }), json!(null)] {
            assert_eq!(outputs.store(prompt, folder.path(), &shown).await.unwrap(), shown);
        }
        let missing = outputs.store(prompt, folder.path(), &shown("a.png", "", "output")).await;
        assert!(matches!(missing, Err(OutputsError::File { .. })));
        for (name, subfolder) in [("../a.png", ""), ("a.png", ".."), ("/etc/passwd", "")] {
            let refused =
                outputs.store(prompt, folder.path(), &shown(name, subfolder, "output")).await;
            assert!(matches!(refused, Err(OutputsError::Name { .. })));
            assert_eq!(outputs.fetch(folder.path(), subfolder, name).await.unwrap(), None);
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn nothing_is_fetched_through_links_that_lead_out() {
        let outputs = Outputs::in_store(Arc::new(InMemory::new()), "", "memory".to_owned());
        let [saved, front_end, outside] = std::array::from_fn(|_| tempfile::tempdir().unwrap());
        let prompt = Uuid::new_v4();
        for subfolder in ["out", "in", "kept"] {
            std::fs::create_dir(saved.path().join(subfolder)).unwrap();
            std::fs::write(saved.path().join(subfolder).join("a.png"), b"a").unwrap();
            let shown = shown("a.png", subfolder, "output");
            outputs.store(prompt, saved.path(), &shown).await.unwrap();
        }
        std::fs::create_dir(front_end.path().join("kept")).unwrap();
        let link = |target: &Path, name: &str| {
            std::os::unix::fs::symlink(target, front_end.path().join(name)).unwrap();
        };
        link(outside.path(), "out");
        link(&front_end.path().join("kept"), "in");
        let fetch = async |subfolder: &str| {
            let place = format!("{subfolder}/{prompt}");
            outputs.fetch(front_end.path(), &place, "a.png").await.unwrap()
        };
        assert_eq!(fetch("out").await, None);
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        let inside = fetch("in").await.unwrap();
        assert_eq!(std::fs::read(inside).unwrap(), b"a");
        // A file that is a link, to where nothing is.
        let dangling = front_end.path().join(format!("kept/{prompt}/a.png"));
        std::fs::remove_file(&dangling).unwrap();
        std::os::unix::fs::symlink(outside.path().join("new.png"), &dangling).unwrap();
        assert_eq!(fetch("kept").await, None);
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn addresses_are_those_of_a_bucket() {
        for address in ["", "/tmp", "s3://", "s3:///folder", "s3://user@bucket", "gs://bucket"] {
            let opened = Outputs::open_s3(address, AmazonS3Builder::new());
            assert!(matches!(opened, Err(OutputsError::Address(_))), "{address}");
        }
    }

    /// Ends the server with the test.
    struct Server(Child);

    impl Drop for Server {
        fn drop(&mut self) {
            drop(self.0.kill());
            drop(self.0.wait());
        }
    }

    #[tokio::test]
    async fn an_s3_server_keeps_results() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let port = port.to_string();
        let started = Command::new("moto_server")
            .args(["-H", "127.0.0.1", "-p", &port])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(server) = started else {
            assert!(
                std::env::var_os("DISTORCH_EXPECT_S3").is_none(),
                "no moto_server is installed"
            );
            eprintln!("left out: no S3 server is installed (PyPI: moto[server])");
            return;
        };
        let mut server = Server(server);
        let endpoint = format!("http://127.0.0.1:{port}");
        install_tls();
        let client = reqwest::Client::new();
        let make = || client.put(format!("{endpoint}/results")).send();
        // It is up when the bucket is made.
        while !make().await.is_ok_and(|made| made.status().is_success()) {
            assert!(server.0.try_wait().unwrap().is_none(), "moto_server ended");
        }
        let builder = || {
            AmazonS3Builder::new()
                .with_endpoint(&endpoint)
                .with_allow_http(true)
                .with_region("us-east-1")
                .with_access_key_id("key")
                .with_secret_access_key("secret")
        };
        two_workers_share(&Outputs::open_s3("s3://results/a", builder()).unwrap()).await;
        let absent = Outputs::open_s3("s3://absent", builder()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.png"), b"a").unwrap();
        let refused =
            absent.store(Uuid::new_v4(), folder.path(), &shown("a.png", "", "output")).await;
        assert!(refused.unwrap_err().to_string().contains("a.png"));
    }
}
