//! Near names, for messages about names that are not there.

use std::cmp::Reverse;

/// Names longer than this are not compared: the comparison's cost is the product of two lengths.
const LONGEST: usize = 512;
const MOST: usize = 5;

/// Up to five of `names` that `wanted` may have meant, the likeliest first.
///
/// The same file in another folder, in another case or with another extension counts as near;
/// otherwise the whole name or the file's own name must be within a third of its length in edits, extensions left out.
pub fn near_names<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let wanted = wanted.replace('\\', "/").to_lowercase();
    if wanted.len() > LONGEST {
        return Vec::new();
    }
    let mut near: Vec<(usize, &str)> =
        names.filter_map(|name| Some((distance(&wanted, name)?, name))).collect();
    near.sort();
    near.truncate(MOST);
    near.into_iter().map(|(_, name)| name.to_owned()).collect()
}

/// The one of `names` that `wanted` is closest to, if it is close.
pub(super) fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = wanted.to_lowercase();
    names
        .filter_map(|name| Some((Reverse(edits(&wanted, name)?), name)))
        .max_by_key(|(edits, _)| *edits)
        .map(|(_, name)| name)
}

/// How far `name` is from `wanted`, which is in lower case; `None` when it is too far.
fn distance(wanted: &str, name: &str) -> Option<usize> {
    let name = name.to_lowercase();
    let (wanted_file, file) = (file_of(wanted), file_of(&name));
    if stem_of(wanted_file) == stem_of(file) {
        return Some(usize::from(wanted != name));
    }
    let whole = edits(without_extension(wanted), without_extension(&name));
    let own = edits(stem_of(wanted_file), stem_of(file)).map(|edits| edits + 1);
    whole.into_iter().chain(own).min().map(|edits| edits + 1)
}

fn edits(wanted: &str, name: &str) -> Option<usize> {
    if wanted.len() > LONGEST || name.len() > LONGEST {
        return None;
    }
    let edits = strsim::osa_distance(wanted, name);
    (edits <= wanted.chars().count().max(3) / 3).then_some(edits)
}

fn file_of(name: &str) -> &str {
    name.rsplit_once('/').map_or(name, |(_, file)| file)
}

fn without_extension(path: &str) -> &str {
    let file = file_of(path);
    path.strip_suffix(&file[stem_of(file).len()..]).unwrap_or(path)
}

fn stem_of(file: &str) -> &str {
    file.rsplit_once('.').map_or(file, |(stem, _)| stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 4] =
        ["SD15/v1-5-pruned.safetensors", "sdxl_base.safetensors", "flux.sft", "sdxl_refiner.ckpt"];

    fn near(wanted: &str) -> Vec<String> {
        near_names(wanted, NAMES.into_iter())
    }

    #[test]
    fn the_same_file_elsewhere_is_near() {
        assert_eq!(near("v1-5-pruned.safetensors"), ["SD15/v1-5-pruned.safetensors"]);
        assert_eq!(near("sd15\\V1-5-PRUNED.ckpt"), ["SD15/v1-5-pruned.safetensors"]);
        assert_eq!(near("FLUX"), ["flux.sft"]);
    }

    #[test]
    fn a_slip_of_the_pen_is_near_and_another_name_is_not() {
        assert_eq!(near("sdxl_bsae.safetensors"), ["sdxl_base.safetensors"]);
        assert_eq!(near("sd15/v1-5-prunde.safetensors"), ["SD15/v1-5-pruned.safetensors"]);
        assert_eq!(near("something-else-entirely.ckpt"), [""; 0]);
        // What all names end in does not make them near.
        assert_eq!(near("juno_base.safetensors"), [""; 0]);
        assert_eq!(near(&"x".repeat(100_000)), [""; 0]);
    }
}
