//! What a run asks of the components of a file, as far as that is known before it.

use std::fmt;

use distorch_checkpoint::ComponentKind;
use distorch_checkpoint::family::Model;
use distorch_models::estimate::Workload;

/// What a component is to do in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Task {
    /// Whether anything uses it.
    pub used: bool,
    /// The picture that takes most memory, of those whose size is known.
    pub most: Option<Workload>,
    /// Whether there is one whose size is known only when it is made.
    pub unknown: bool,
}

impl Task {
    /// One picture of a known size, or of one that is not known yet.
    pub fn of(picture: Option<Workload>) -> Self {
        Self { used: true, most: picture, unknown: picture.is_none() }
    }

    /// Both tasks, one after the other.
    pub fn and(self, other: Self) -> Self {
        let size = |picture: &Workload| {
            let pixels = u128::from(picture.width) * u128::from(picture.height);
            pixels * u128::from(picture.rows())
        };
        Self {
            used: self.used || other.used,
            most: self.most.into_iter().chain(other.most).max_by_key(size),
            unknown: self.unknown || other.unknown,
        }
    }

    /// The picture to plan for: `usual` stands for what is not known.
    fn picture(self, usual: Workload) -> Workload {
        let known = Self { used: true, most: self.most, unknown: false };
        match self.unknown || self.most.is_none() {
            true => known.and(Self::of(Some(usual))).most.unwrap_or(usual),
            false => self.most.unwrap_or(usual),
        }
    }
}

/// What the components of a file are to do in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tasks {
    /// The diffusion model.
    pub diffusion: Task,
    /// The text encoders, whose work depends on the pictures in a prompt.
    pub text: Task,
    /// The autoencoder: one picture, or one tile.
    pub vae: Task,
    /// The model that enlarges pictures: one picture, or one tile, before it is enlarged.
    pub upscaler: Task,
}

impl Tasks {
    /// The task of a component.
    pub fn of(&self, kind: ComponentKind) -> Task {
        match kind {
            ComponentKind::DiffusionModel => self.diffusion,
            ComponentKind::TextEncoders => self.text,
            ComponentKind::Vae => self.vae,
            ComponentKind::Upscaler => self.upscaler,
        }
    }

    /// What a component is planned for. A picture of the size that the model was trained on stands for what is not known,
    /// and in prompts one of a megapixel.
    pub fn workload(&self, kind: ComponentKind, model: &Model) -> Workload {
        let usual = match kind {
            ComponentKind::TextEncoders => Workload::WORDS_AND_PICTURE,
            _ => Workload::native(model),
        };
        self.of(kind).picture(usual)
    }

    /// A component is to do this too.
    pub fn add(&mut self, kind: ComponentKind, task: Task) {
        let place = match kind {
            ComponentKind::DiffusionModel => &mut self.diffusion,
            ComponentKind::TextEncoders => &mut self.text,
            ComponentKind::Vae => &mut self.vae,
            ComponentKind::Upscaler => &mut self.upscaler,
        };
        *place = place.and(task);
    }

    /// All components make a picture of this size, of a prompt that is not known.
    pub fn picture(picture: Workload) -> Self {
        let task = Task::of(Some(picture));
        let one = Workload { batch: 1, ..picture };
        let one = Task::of(Some(one));
        Self { diffusion: task, text: Task::of(None), vae: one, upscaler: one }
    }
}

/// The size of a picture for people: `1024×768 pixels, 2 at once`.
pub fn size_in_words(picture: Workload) -> String {
    let Workload { width, height, batch, .. } = picture;
    match batch {
        0 | 1 => format!("{width}×{height} pixels"),
        _ => format!("{width}×{height} pixels, {batch} at once"),
    }
}

impl fmt::Display for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [("sampling", self.diffusion), ("VAE", self.vae), ("upscaling", self.upscaler)];
        let known = parts.into_iter().filter_map(|(name, task)| Some((name, task.most?)));
        let known: Vec<String> =
            known.map(|(name, most)| format!("{name} {}", size_in_words(most))).collect();
        f.write_str(&known.join("; "))
    }
}
