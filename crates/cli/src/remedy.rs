//! What helps against a lack of memory, by the options of `distorch generate`.

use distorch_runtime::machine::Remedy;

/// The option with the value that fits; `None` where no option has one.
pub fn option(remedy: &Remedy) -> Option<String> {
    match remedy {
        Remedy::VirtualVram { component, gigabytes, .. } if component == "unet" => {
            Some(format!("`--virtual-vram-gb {:.1}`", gigabytes.to_f64()))
        }
        Remedy::Allocation { component, allocation } if component == "unet" => {
            Some(format!("`--expert-mode-allocations \"{allocation}\"`"))
        }
        _ => None,
    }
}

/// What to do.
pub fn in_options(remedy: &Remedy) -> String {
    match (remedy, option(remedy)) {
        (Remedy::VirtualVram { replaces_allocation: true, .. }, Some(option)) => {
            format!("{option} would fit without `--expert-mode-allocations`")
        }
        (_, Some(option)) => format!("{option} would fit"),
        (Remedy::Tiles, None) => {
            "make a smaller picture, compute on another device (`--device`), or leave it to `--auto-retry`, which \
             converts it in tiles"
                .to_owned()
        }
        (_, None) => remedy.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use distorch_allocation::{Allocation, Number};

    use super::*;

    #[test]
    fn what_fits_is_told_as_an_option() {
        let component = || "unet".to_owned();
        let gigabytes = Number::from_tenths(3);
        let more = |replaces_allocation| Remedy::VirtualVram {
            component: component(),
            gigabytes,
            replaces_allocation,
        };
        assert_eq!(in_options(&more(false)), "`--virtual-vram-gb 0.3` would fit");
        let without = "`--virtual-vram-gb 0.3` would fit without `--expert-mode-allocations`";
        assert_eq!(in_options(&more(true)), without);
        let allocation = Allocation::parse("cpu,2gb;cuda:0,*").unwrap().unwrap();
        let less = Remedy::Allocation { component: component(), allocation };
        let text = in_options(&less);
        assert!(text.starts_with("`--expert-mode-allocations \"cpu,2gb"), "{text}");
        assert_eq!(option(&Remedy::LessWork), None);
    }
}
