//! Model files as clients list them.

use http::StatusCode;
use serde_json::json;

use crate::app::app;

#[tokio::test]
async fn model_files_are_listed_by_kind() {
    let app = app("").await;
    app.write("models/embeddings/style.safetensors", b"12345678");
    app.write("models/embeddings/below/other.pt", b"1");
    app.write("models/embeddings/readme.txt", b"no model");
    let kinds = app.get("/models").await.json();
    for kind in ["checkpoints", "loras", "vae", "embeddings", "diffusion_models"] {
        assert!(kinds.as_array().unwrap().contains(&json!(kind)), "{kind}: {kinds}");
    }
    let names = ["below/other.pt", "style.safetensors"];
    assert_eq!(app.get("/api/models/embeddings").await.json(), json!(names));
    assert_eq!(app.get("/embeddings").await.json(), json!(["below/other", "style"]));
    let files = app.get("/api/experiment/models/embeddings").await.json();
    let [_, style] = files.as_array().unwrap().as_slice() else { panic!("{files}") };
    assert_eq!((&style["name"], &style["size"]), (&json!("style.safetensors"), &json!(8)));
    let modified = std::fs::metadata(app.path("models/embeddings/style.safetensors")).unwrap();
    let modified = modified.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
    // Numbers are read to about sixteen digits.
    assert!((style["modified"].as_f64().unwrap() - modified.as_secs_f64()).abs() < 1e-3);
    let described = app.get("/experiment/models").await.json();
    let embeddings = described.as_array().unwrap().iter().find(|kind| kind["name"] == "embeddings");
    let folders = &embeddings.unwrap()["folders"];
    let index = style["pathIndex"].as_u64().unwrap() as usize;
    let folder = app.path("models/embeddings").canonicalize().unwrap();
    let listed = std::path::Path::new(folders[index].as_str().unwrap());
    assert_eq!(listed.canonicalize().unwrap(), folder);
    let paths = app.get("/internal/folder_paths").await.json();
    assert_eq!(paths["embeddings"], *folders);
    // A file that comes is there at once.
    app.write("models/embeddings/new.bin", b"1");
    assert!(app.get("/models/embeddings").await.json().as_array().unwrap().len() == 3);
    for path in ["/models/none", "/experiment/models/none", "/models/..%2Fcheckpoints"] {
        assert_eq!(app.get(path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
}
