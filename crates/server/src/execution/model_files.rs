//! The model files that a process has, and those that it has loaded.

use std::collections::BTreeSet;

use distorch_checkpoint::folders::ModelKind;
use distorch_workflow::Environment;

use super::requirements::model;

/// The model files of a process, by the names that prompts need them by.
#[derive(Debug, Default)]
pub(super) struct Models {
    pub present: BTreeSet<String>,
    /// Those whose weights are loaded, and LoRAs, which are read in a moment; none where no weights are.
    pub loaded: BTreeSet<String>,
}

/// The files of the model folders now.
pub(super) fn model_files(environment: &Environment) -> Models {
    let in_memory = environment.session.models.loaded_files();
    let mut files = Models::default();
    for kind in ModelKind::ALL {
        for entry in environment.session.folders.list(kind).unwrap_or_default().entries {
            let name = model(kind, &entry.name);
            let is_read_in_a_moment = kind == ModelKind::Loras && !in_memory.is_empty();
            if is_read_in_a_moment || in_memory.contains(&entry.path) {
                files.loaded.insert(name.clone());
            }
            files.present.insert(name);
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use distorch_allocation::{DeviceInfo, Topology};
    use distorch_checkpoint::folders::ModelFolders;
    use distorch_test_support::repository;
    use distorch_workflow::graph::Prompt;
    use distorch_workflow::observe::Silent;
    use distorch_workflow::{Executor, nodes};

    use super::*;
    use crate::execution::requirements;

    #[test]
    fn a_worker_says_which_of_its_models_are_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let shipped = repository().join("models");
        for (from, to) in [
            ("checkpoints/tiny-shapes.safetensors", "checkpoints/below/one.safetensors"),
            ("checkpoints/tiny-shapes.safetensors", "checkpoints/two.safetensors"),
            ("loras/tiny-outlines.safetensors", "loras/lines.safetensors"),
        ] {
            let to = folder.path().join("models").join(to);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(shipped.join(from), to).unwrap();
        }
        let cpu = DeviceInfo::new("cpu".parse().unwrap(), "", 8 << 30);
        let topology = Topology::new(vec![cpu]).unwrap();
        let folders = ModelFolders::new(folder.path(), &[]).unwrap();
        let environment = Arc::new(Environment::on(folders, topology));
        let registry = Arc::new(nodes::all());
        let files = |environment| {
            let Models { present, loaded } = model_files(environment);
            (present.into_iter().collect::<Vec<_>>(), loaded.into_iter().collect::<Vec<_>>())
        };
        let [one, two, lines] = [
            "checkpoints/below/one.safetensors",
            "checkpoints/two.safetensors",
            "loras/lines.safetensors",
        ];
        assert_eq!(files(&environment), (vec![one.into(), two.into(), lines.into()], vec![]));
        // A text is encoded, which loads the encoder of one of them.
        let prompt = r#"{
            "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "below/one.safetensors"}},
            "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "a circle"}}
        }"#;
        let prompt = Prompt::from_json(prompt, &registry).unwrap();
        let needs = requirements(&prompt, &registry);
        let mut executor = Executor::new(Arc::clone(&environment), registry);
        let report = executor.run_nodes(&prompt, &["2"], &Silent).unwrap();
        let (_, loaded) = files(&environment);
        assert_eq!(loaded, [one, lines]);
        assert!(needs.models.iter().eq([one]), "{needs:?}");
        drop((report, executor));
        environment.session.unload();
        assert_eq!(files(&environment).1, Vec::<String>::new());
    }
}
