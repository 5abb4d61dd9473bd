//! Says of workflow files whether they could be run if the files that they name were there: one line of JSON each.
//!
//!     cargo run --example validate_workflows -- FILE…
//!
//! Every name in an input that names a file stands for an empty one, so that what is wrong is the workflow's own: nodes
//! that this program has not, inputs that they have not. `tools/templates/count.py` counts with it.

use std::error::Error;
use std::fs;
use std::path::Path;

use distorch_allocation::{DeviceInfo, Topology};
use distorch_checkpoint::folders::ModelFolders;
use distorch_workflow::graph::{InputValue, Prompt};
use distorch_workflow::validate::lines;
use distorch_workflow::{Environment, Executor, nodes};
use serde_json::{Value as Json, json};

/// Inputs that name files, by the beginnings of their names, and the folders in which these are.
const FOLDERS: [(&str, &str); 9] = [
    ("ckpt_name", "models/checkpoints"),
    ("unet_name", "models/diffusion_models"),
    ("clip_name", "models/text_encoders"),
    ("vae_name", "models/vae"),
    ("lora_name", "models/loras"),
    ("model_name", "models/upscale_models"),
    ("control_net_name", "models/controlnet"),
    ("image", "input"),
    ("latent", "input"),
];

fn main() -> Result<(), Box<dyn Error>> {
    for path in std::env::args().skip(1) {
        let found = match judge(Path::new(&path)) {
            Ok(found) => found,
            Err(error) => json!({ "valid": false, "problem": error.to_string(), "missing": [] }),
        };
        println!("{}", json!({ "file": path, "found": found }));
    }
    Ok(())
}

/// What is wrong with a workflow, and the classes of nodes that are not known.
fn judge(path: &Path) -> Result<Json, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let registry = nodes::all();
    let prompt = Prompt::from_json(&fs::read_to_string(path)?, &registry)?;
    for node in prompt.nodes.values() {
        for (input, given) in &node.inputs {
            let place = FOLDERS.iter().find(|(start, _)| input.starts_with(start));
            if let (Some((_, place)), InputValue::Literal(Json::String(name))) = (place, given) {
                stand_in(&folder.path().join(place), name)?;
            }
        }
    }
    let devices = ["cpu", "cuda:0", "cuda:1"];
    let info = |name: &str| Ok(DeviceInfo::new(name.parse()?, "", 64 << 30));
    let devices = devices.into_iter().map(info).collect::<Result<Vec<_>, Box<dyn Error>>>()?;
    let folders = ModelFolders::new(folder.path(), &[])?;
    let executor = Executor::new(Environment::on(folders, Topology::new(devices)?), registry);
    let missing: Vec<&str> = prompt
        .nodes
        .values()
        .map(|node| node.class.as_str())
        .filter(|class| executor.registry().find(class).is_none())
        .filter(|class| !matches!(*class, "Note" | "MarkdownNote"))
        .collect();
    let problem = match executor.validate(&prompt) {
        Ok(valid) if valid.node_errors.is_empty() => None,
        Ok(valid) => Some(lines(&valid.node_errors)),
        Err(invalid) => Some(invalid.to_string()),
    };
    Ok(json!({ "valid": problem.is_none(), "problem": problem, "missing": missing }))
}

/// An empty file of this name.
fn stand_in(folder: &Path, name: &str) -> std::io::Result<()> {
    // Names of other programs' inputs may be anything.
    if name.is_empty() || name.len() > 200 || name.contains("..") || name.contains('\n') {
        return Ok(());
    }
    let name = name.replace('\\', "/").replace(" [input]", "");
    let path = folder.join(name.trim_start_matches('/'));
    fs::create_dir_all(path.parent().unwrap_or(folder))?;
    if !path.is_dir() {
        fs::write(path, [])?;
    }
    Ok(())
}
