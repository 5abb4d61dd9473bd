//! Files that clients send and fetch.

use std::fs;
use std::io::{Cursor, Read};

use distorch_pipeline::image::decode;
use distorch_pipeline::image::png_file::Picture8;
use reqwest::Method;
use serde_json::{Value, json};

use crate::server::{Answer, TestServer, png};

/// A file of a form: its field, its name, its bytes.
type Part<'a> = (&'a str, Option<&'a str>, &'a [u8]);

async fn upload(server: &TestServer, path: &str, parts: &[Part<'_>]) -> Answer {
    let mut body = Vec::new();
    for (field, name, bytes) in parts {
        let name = name.map_or_else(String::new, |name| format!("; filename=\"{name}\""));
        let head =
            format!("--edge\r\nContent-Disposition: form-data; name=\"{field}\"{name}\r\n\r\n");
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--edge--\r\n");
    let request = server.request(Method::POST, path).body(body);
    server.send(request.header("content-type", "multipart/form-data; boundary=edge")).await
}

/// A picture of 4×2 pixels whose bytes count up from `first`.
fn picture(channels: usize, first: u8) -> Vec<u8> {
    let bytes = (0..8 * channels).map(|place| first.wrapping_add(place as u8)).collect();
    let mut file = Vec::new();
    Picture8 { width: 4, height: 2, channels, bytes }.write(&mut file, &[]).unwrap();
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_are_named_as_comfyui_does() {
    let server = TestServer::start().await;
    let (one, two) = (picture(3, 0), picture(3, 100));
    let send = |name: &'static str, bytes: &'static [u8], more: Vec<Part<'static>>| {
        let server = &server;
        async move {
            let mut parts: Vec<Part> = vec![("image", Some(name), bytes)];
            parts.extend(more);
            upload(server, "/upload/image", &parts).await
        }
    };
    let leak = |bytes: &[u8]| -> &'static [u8] { Box::leak(bytes.to_vec().into_boxed_slice()) };
    let (first, second) = (leak(&one), leak(&two));
    let saved = send("a.png", first, vec![]).await.json();
    assert_eq!(saved, json!({ "name": "a.png", "subfolder": "", "type": "input" }));
    // The same again is the same; another of the name is numbered, and so on.
    assert_eq!(send("a.png", first, vec![]).await.json()["name"], "a.png");
    assert_eq!(send("a.png", second, vec![]).await.json()["name"], "a (1).png");
    assert_eq!(send("a.png", second, vec![]).await.json()["name"], "a (1).png");
    assert_eq!(send("a.png", b"x", vec![]).await.json()["name"], "a (2).png");
    assert_eq!(fs::read(server.path("input/a.png")).unwrap(), one);
    assert_eq!(fs::read(server.path("input/a (1).png")).unwrap(), two);
    let over = send("a.png", second, vec![("overwrite", None, b"true")]).await;
    assert_eq!(over.json()["name"], "a.png");
    assert_eq!(fs::read(server.path("input/a.png")).unwrap(), two);
    let below = vec![("subfolder", None, b"x/y".as_slice()), ("type", None, b"temp".as_slice())];
    let saved = send("b.png", first, below).await.json();
    assert_eq!(saved, json!({ "name": "b.png", "subfolder": "x/y", "type": "temp" }));
    assert_eq!(fs::read(server.path("temp/x/y/b.png")).unwrap(), one);
    // What was uploaded can be loaded at once.
    let info = server.get("/object_info/LoadImage").await.json();
    let list = &info["LoadImage"]["input"]["required"]["image"][0];
    assert!(list.as_array().unwrap().contains(&json!("a (1).png")), "{list}");
    let files = server.get("/internal/files/input").await.json();
    assert_eq!(files.as_array().unwrap().len(), 3, "{files}");
    assert_eq!(server.get("/internal/files/secret").await.status, 400);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_of_nodes_is_kept_until_a_file_in_it_changes() {
    let server = TestServer::start().await;
    let offered = |nodes: &Value| -> Vec<String> {
        let list = nodes["LoadImage"]["input"]["required"]["image"][0].as_array().unwrap();
        list.iter().map(|name| name.as_str().unwrap().to_owned()).collect()
    };
    let get = |coding: &'static str| {
        let request = server.request(Method::GET, "/object_info");
        server.send(request.header("accept-encoding", coding))
    };
    assert_eq!(offered(&get("identity").await.json()), Vec::<String>::new());
    fs::write(server.path("input/a.png"), picture(3, 0)).unwrap();
    let plain = get("identity, gzip;q=0").await;
    assert_eq!((plain.header("content-encoding"), plain.header("vary")), ("", "accept-encoding"));
    assert_eq!(offered(&plain.json()), ["a.png"]);
    let packed = get("deflate;q=0.1, GZIP;q=0.5").await;
    assert_eq!(packed.header("content-encoding"), "gzip");
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(packed.bytes.as_slice()).read_to_end(&mut unpacked).unwrap();
    assert_eq!(unpacked, plain.bytes);
    fs::remove_file(server.path("input/a.png")).unwrap();
    let one = server.get("/object_info/LoadImage").await.json();
    let all = get("identity").await.json();
    assert_eq!((offered(&all).len(), &all["LoadImage"]), (0, &one["LoadImage"]));
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_lead_out_of_a_folder_are_refused() {
    let server = TestServer::start().await;
    let before = fs::read_dir(server.folder.path()).unwrap().count();
    fs::write(server.path("secret.png"), picture(3, 0)).unwrap();
    for name in [
        "../secret.png",
        "..\\secret.png",
        "/etc/passwd",
        "C:\\a.png",
        "\\\\host\\share\\a.png",
        "a/../../secret.png",
        "nul",
        "a\u{1}.png",
        "..",
        ".",
        "",
        "....//secret.png",
    ] {
        let answer = upload(&server, "/upload/image", &[("image", Some(name), b"x")]).await;
        assert_eq!(answer.status, 400, "{name}: {}", answer.json());
        let parts: [Part; 2] =
            [("image", Some("a.png"), b"x"), ("subfolder", None, name.as_bytes())];
        if !["", "."].contains(&name) {
            assert_eq!(upload(&server, "/upload/image", &parts).await.status, 400, "{name}");
        }
    }
    for query in [
        "filename=../secret.png",
        "filename=..%2Fsecret.png",
        "filename=..%5Csecret.png",
        "filename=%2Fetc%2Fpasswd",
        "filename=secret.png&subfolder=..",
        "filename=secret.png&subfolder=%2e%2e",
        "filename=secret.png&subfolder=..%2F",
        "filename=secret.png&subfolder=%2F",
        "filename=c:%5Cwin.ini",
        "filename=secret.png%00.png",
        "filename=secret.png&subfolder=a%2F..%2F..",
        "filename=",
        "filename=..%252Fsecret.png",
        "filename=secret.png%20[..]",
    ] {
        for folder in ["input", "output", "temp"] {
            let answer = server.get(&format!("/view?type={folder}&{query}")).await;
            let status = answer.status.as_u16();
            assert!([400, 403, 404].contains(&status), "{query}: {status}");
        }
    }
    assert_eq!(server.get("/view?filename=a.png&type=models").await.status, 400);
    assert_eq!(server.get("/view").await.status, 404);
    for path in [
        "/view_metadata/checkpoints?filename=../../Cargo.toml",
        "/view_metadata/..%2Fcheckpoints?filename=a.safetensors",
    ] {
        assert_eq!(server.get(path).await.status, 404, "{path}");
    }
    assert_eq!(fs::read_dir(server.folder.path()).unwrap().count(), before + 1);
    server.end().await;
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn links_that_lead_out_of_a_folder_are_not_followed() {
    use std::os::unix::fs::symlink;
    let server = TestServer::start().await;
    fs::write(server.path("secret.png"), picture(3, 0)).unwrap();
    symlink(server.path("secret.png"), server.path("output/link.png")).unwrap();
    symlink(server.folder.path(), server.path("input/out")).unwrap();
    assert_eq!(server.get("/view?filename=link.png").await.status, 403);
    assert_eq!(server.get("/view?filename=secret.png&subfolder=out&type=input").await.status, 403);
    let parts: [Part; 2] = [("image", Some("a.png"), b"x"), ("subfolder", None, b"out")];
    assert_eq!(upload(&server, "/upload/image", &parts).await.status, 400);
    assert!(!server.path("a.png").exists());
    // A link that stays inside is a file like others.
    fs::write(server.path("output/real.png"), picture(3, 0)).unwrap();
    symlink(server.path("output/real.png"), server.path("output/inside.png")).unwrap();
    assert_eq!(server.get("/view?filename=inside.png").await.status, 200);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_are_shown_whole_or_in_part() {
    let server = TestServer::start().await;
    let file = picture(4, 10);
    fs::write(server.path("output/a (b).png"), &file).unwrap();
    let name = "filename=a%20(b).png";
    let whole = server.get(&format!("/view?{name}")).await;
    assert_eq!(whole.bytes, file);
    assert_eq!(whole.header("content-disposition"), "filename=\"a (b).png\"");
    assert_eq!(whole.header("x-content-type-options"), "nosniff");
    let marked = server.get("/view?filename=a%20(b).png%20[output]&type=input").await;
    assert_eq!(marked.bytes, file);
    let range = server.request(Method::GET, &format!("/view?{name}")).header("range", "bytes=1-3");
    let part = server.send(range).await;
    assert_eq!((part.status.as_u16(), part.bytes.as_slice()), (206, b"PNG".as_slice()));
    let pixels: Vec<u8> = (10..42).collect();
    let colours: Vec<u8> = pixels.chunks(4).flat_map(|pixel| pixel[..3].to_vec()).collect();
    let alpha: Vec<u8> = pixels.chunks(4).flat_map(|pixel| [0, 0, 0, pixel[3]]).collect();
    assert_eq!(png(&server.get(&format!("/view?{name}&channel=rgb")).await.bytes).0, colours);
    assert_eq!(png(&server.get(&format!("/view?{name}&channel=a")).await.bytes).0, alpha);
    let preview = server.get(&format!("/view?{name}&preview=webp;90")).await;
    assert_eq!(preview.header("content-type"), "image/webp");
    assert_eq!(
        (&preview.bytes[..4], &preview.bytes[8..12]),
        (b"RIFF".as_slice(), b"WEBP".as_slice())
    );
    // A picture with alpha is a JPEG without; where its alpha is wanted, it is WebP, and so is what has no format.
    let jpeg = |quality: &str, channel: &str| {
        let path = format!("/view?{name}&preview=jpeg{quality}&channel={channel}");
        let server = &server;
        async move { server.get(&path).await }
    };
    let preview = jpeg(";90", "").await;
    assert_eq!(preview.header("content-type"), "image/jpeg");
    let read = decode::decode(&mut Cursor::new(&preview.bytes), 8).unwrap();
    assert_eq!((read.colours.shape(), read.transparency), ([1, 2, 4, 3], None));
    assert_eq!(jpeg("", "rgb").await.bytes, preview.bytes, "90 where none is named");
    assert_eq!(jpeg(";x", "rgb").await.bytes, preview.bytes);
    assert_ne!(jpeg(";10", "rgb").await.bytes, preview.bytes);
    assert_eq!(jpeg(";4294967295", "").await.bytes, jpeg(";100", "").await.bytes);
    assert_eq!(jpeg(";90", "rgba").await.header("content-type"), "image/webp");
    let other = server.get(&format!("/view?{name}&preview=gif")).await;
    assert_eq!(other.header("content-type"), "image/webp");
    // What could run in a page is saved instead of shown.
    for (name, media, saved) in [
        ("a.html", "application/octet-stream", true),
        ("a.svg", "application/octet-stream", true),
        ("a.js", "application/octet-stream", true),
        ("a.latent", "application/octet-stream", true),
        ("a.TXT", "text/plain; charset=utf-8", false),
    ] {
        fs::write(server.path("output").join(name), "<script>").unwrap();
        let answer = server.get(&format!("/view?filename={name}")).await;
        assert_eq!(answer.header("content-type"), media);
        assert_eq!(answer.header("content-disposition").starts_with("attachment"), saved, "{name}");
    }
    assert_eq!(server.get("/view?filename=a.html&preview=webp").await.status, 400);
    assert_eq!(server.get("/view?filename=none.png").await.status, 404);
    let metadata = server.get("/view_metadata/checkpoints?filename=tiny-shapes.safetensors").await;
    let header = fs::read(
        distorch_test_support::repository().join("models/checkpoints/tiny-shapes.safetensors"),
    )
    .unwrap();
    let length = u64::from_le_bytes(header[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&header[8..8 + length]).unwrap();
    match header.get("__metadata__") {
        Some(expected) => assert_eq!(metadata.json(), *expected),
        None => assert_eq!(metadata.status, 404),
    }
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mask_becomes_the_alpha_of_its_picture() {
    let server = TestServer::start().await;
    let mut original = Vec::new();
    let bytes = (0..24).collect();
    let text = [("workflow".to_owned(), "{\"id\":1}".to_owned())];
    Picture8 { width: 4, height: 2, channels: 3, bytes }.write(&mut original, &text).unwrap();
    fs::write(server.path("input/original.png"), original).unwrap();
    let mask = picture(4, 100);
    let send = |reference: Value| {
        let (server, mask) = (&server, mask.clone());
        async move {
            let reference = reference.to_string();
            let parts: [Part; 2] = [
                ("image", Some("masked.png"), &mask),
                ("original_ref", None, reference.as_bytes()),
            ];
            upload(server, "/upload/mask", &parts).await
        }
    };
    let saved = send(json!({ "filename": "original.png", "type": "input", "subfolder": "" })).await;
    assert_eq!(saved.json()["name"], "masked.png", "{}", saved.json());
    let (pixels, size, texts) = png(&fs::read(server.path("input/masked.png")).unwrap());
    // The picture's colours, and every fourth byte of the mask, which count up from 100.
    let expected: Vec<u8> =
        (0..8_u8).flat_map(|p| [3 * p, 3 * p + 1, 3 * p + 2, 103 + 4 * p]).collect();
    assert_eq!((size, pixels), ([4, 2], expected));
    assert_eq!(texts, [("workflow".to_owned(), "{\"id\":1}".to_owned())]);
    assert_eq!(send(json!({ "filename": "none.png", "type": "input" })).await.status, 404);
    assert_eq!(send(json!({ "filename": "../secret.png", "type": "input" })).await.status, 400);
    assert_eq!(send(json!(5)).await.status, 400);
    let mut small = Vec::new();
    Picture8 { width: 1, height: 1, channels: 3, bytes: vec![0; 3] }
        .write(&mut small, &[])
        .unwrap();
    fs::write(server.path("input/small.png"), small).unwrap();
    let wrong = send(json!({ "filename": "small.png", "type": "input" })).await;
    assert!(wrong.json()["error"].as_str().unwrap().contains("differ in size"), "{}", wrong.json());
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_larger_than_allowed_are_not_taken() {
    let server = TestServer::with(|config| {
        config.limits.body_bytes = 1000;
        config.limits.upload_bytes = 2000;
    })
    .await;
    let large = json!({ "prompt": {}, "extra_data": { "x": "x".repeat(2000) } });
    assert_eq!(server.post("/prompt", &large).await.status, 413);
    assert_eq!(
        upload(&server, "/upload/image", &[("image", Some("a"), &[0; 2001])]).await.status,
        413
    );
    assert_eq!(
        upload(&server, "/upload/image", &[("image", Some("a"), &[0; 2000])]).await.status,
        200
    );
    let huge = vec![0; 600 << 10];
    assert_eq!(upload(&server, "/upload/image", &[("image", Some("b"), &huge)]).await.status, 413);
    // What the system's buffers cannot hold, so that the server answers while the client still sends.
    let large = vec![0; 24 << 20];
    assert_eq!(upload(&server, "/upload/image", &[("image", Some("b"), &large)]).await.status, 413);
    let field = vec![b'x'; 70 << 10];
    let parts: [Part; 2] = [("subfolder", None, &field), ("image", Some("c"), b"x")];
    assert_eq!(upload(&server, "/upload/image", &parts).await.status, 400);
    assert_eq!(fs::read_dir(server.path("input")).unwrap().count(), 1);
    server.end().await;
}
