//! What is wrong with an input of the loader, with its place in the text and what may stand there.

use distorch_allocation::{
    Allocation, AllocationProblem, DeviceId, Donors, InputError, LoaderInputs, Setting, Topology,
    VirtualVramError,
};
use distorch_workflow::remedy;
use serde::Serialize;
use utoipa::ToSchema;

/// What is wrong with an input.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Problem {
    /// The input of the node, where it is one's.
    pub input: Option<String>,
    /// What is wrong, and what to write instead.
    pub problem: String,
    /// The entry of an allocation, counted from 1.
    pub entry: Option<usize>,
    /// The place in the text in characters, counted from 1.
    pub character: Option<usize>,
    /// Characters from there on that are wrong.
    pub length: Option<usize>,
    /// What may stand there.
    pub suggestions: Vec<String>,
}

impl Problem {
    pub(super) fn of(input: &str) -> Self {
        Self { input: Some(input.to_owned()), ..Self::default() }
    }

    /// A setting that cannot be, with its place in the text.
    pub(super) fn of_setting(
        error: &InputError,
        inputs: &LoaderInputs,
        topology: &Topology,
    ) -> Self {
        let component = match error.component {
            "clip" => Some(&inputs.clip),
            "unet" => Some(&inputs.unet),
            _ => None,
        };
        let problem = Self {
            problem: error.problem.clone(),
            ..Self::of(&remedy::input_name(error.component, error.setting))
        };
        let place = component.and_then(|inputs| match error.setting {
            Setting::Allocation => place_in_allocation(&inputs.allocation, topology),
            Setting::Donors => place_in_donors(&inputs.donors, topology),
            Setting::ComputeDevice | Setting::VirtualVram => None,
        });
        match place {
            Some(place) => Self { input: problem.input, ..place },
            None => problem,
        }
    }
}

/// What is wrong with an allocation, as a problem with its place.
fn place_in_allocation(text: &str, topology: &Topology) -> Option<Problem> {
    let checked = Allocation::parse(text).and_then(|parsed| match parsed {
        Some(allocation) => allocation.check(topology).map(|_| ()),
        None => Ok(()),
    });
    let error = checked.err()?;
    let is_device =
        matches!(error.problem, AllocationProblem::Unknown(_) | AllocationProblem::Device(_));
    Some(Problem {
        input: None,
        problem: error.problem.to_string(),
        entry: Some(error.entry),
        character: Some(error.character),
        length: Some(token(text, error.character, &[',', ';'])),
        suggestions: if is_device { names(topology) } else { Vec::new() },
    })
}

/// What is wrong with a list of donors, as a problem with its place.
fn place_in_donors(text: &str, topology: &Topology) -> Option<Problem> {
    let (character, problem) = match text.parse::<Donors>() {
        Err(VirtualVramError::Device { character, error }) => (character, error.to_string()),
        Err(VirtualVramError::DuplicateDonor { character, device }) => {
            (character, format!("donor `{device}` is listed twice"))
        }
        Err(_) => return None,
        Ok(_) => absent_donor(text, topology)?,
    };
    let length = Some(token(text, character, &[',']));
    Some(Problem {
        problem,
        character: Some(character),
        length,
        suggestions: names(topology),
        ..Problem::default()
    })
}

/// The first donor that the machine does not have: its place and what is wrong.
fn absent_donor(text: &str, topology: &Topology) -> Option<(usize, String)> {
    let mut character = 1;
    for part in text.split(',') {
        let device = part.trim().parse::<DeviceId>().ok();
        if let Some(Err(unknown)) = device.map(|device| topology.get(device)) {
            let blanks = part.chars().take_while(|c| c.is_whitespace()).count();
            return Some((character + blanks, unknown.to_string()));
        }
        character += part.chars().count() + 1;
    }
    None
}

/// Characters from one on, counted from 1, to the next separator; at least one.
fn token(text: &str, character: usize, separators: &[char]) -> usize {
    let from = text.chars().skip(character.saturating_sub(1));
    let token: String = from.take_while(|c| !separators.contains(c)).collect();
    token.trim_end().chars().count().max(1)
}

fn names(topology: &Topology) -> Vec<String> {
    topology.ids().iter().map(ToString::to_string).collect()
}
