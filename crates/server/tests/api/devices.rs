//! The devices as they are.

use serde_json::json;

use crate::app::app;

#[tokio::test]
async fn devices_that_hold_nothing_are_free_and_the_simulated_say_so() {
    let app = app("cuda:0=8MiB,cuda:1=6MiB").await;
    let devices = app.get("/api/distorch/devices").await.json();
    let devices = devices["devices"].as_array().unwrap();
    let ids: Vec<_> = devices.iter().map(|device| device["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["cuda:0", "cuda:1", "cpu"]);
    for (device, total) in devices.iter().zip([8 << 20, 6 << 20]) {
        assert_eq!((&device["total"], &device["free"]), (&json!(total), &json!(total)));
        assert_eq!((&device["simulated"], &device["models"]), (&json!(true), &json!([])));
    }
    assert_eq!(devices[2]["simulated"], false);
    assert!(devices[2]["free"].as_u64() <= devices[2]["total"].as_u64());
}
