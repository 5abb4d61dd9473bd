//! What `distorch bench` prints.

use distorch_allocation::ByteSize;
use distorch_bench::stages::Stage;
use serde::Serialize;

use crate::commands::Table;

/// All figures of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What the model is.
    pub model: String,
    /// The checkpoint's path, or `random`.
    pub weights: String,
    pub device: String,
    pub dtype: &'static str,
    pub threads: usize,
    pub width: u32,
    pub height: u32,
    /// Pictures at once.
    pub batch: u32,
    /// Seconds from opening the file until all weights are in place.
    pub load_seconds: f64,
    pub stages: Vec<Stage>,
    /// The most memory this process held until everything was loaded.
    pub loaded_peak_bytes: Option<u64>,
    /// The most memory it held until the end.
    pub peak_bytes: Option<u64>,
}

impl Report {
    /// The figures for people.
    pub fn text(&self) -> String {
        let Self { model, weights, device, dtype, threads, width, height, batch, .. } = self;
        let mut text = format!(
            "{model}, {weights}\n{device}, {threads} threads, {dtype}, {width}×{height}, batch \
             {batch}\n\n"
        );
        let header = ["Stage", "First", "Min", "Median", "CPU", "Activations", "Estimate"];
        let mut rows = Table::new(header, &[1, 2, 3, 4, 5, 6]).optional(&[1, 4, 6, 5]);
        for stage in &self.stages {
            let seconds = |value: f64| format!("{value:.3} s");
            rows.add_row([
                name(stage.stage).to_owned(),
                seconds(stage.first_seconds),
                seconds(stage.min_seconds),
                seconds(stage.median_seconds),
                seconds(stage.cpu_seconds),
                stage.activation_bytes.map_or(String::new(), |bytes| ByteSize(bytes).to_string()),
                ByteSize(stage.estimated_bytes).to_string(),
            ]);
        }
        text += &format!("{rows}\nload {:.1} s", self.load_seconds);
        if let (Some(loaded), Some(peak)) = (self.loaded_peak_bytes, self.peak_bytes) {
            let (loaded, peak) = (ByteSize(loaded), ByteSize(peak));
            text += &format!(", peak memory {peak}, {loaded} of it while loading");
        }
        text
    }
}

fn name(stage: &str) -> &str {
    match stage {
        "text" => "text encoding (both prompts)",
        "step" => "step (both halves of guidance)",
        _ => "VAE decoding",
    }
}
