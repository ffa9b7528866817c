//! The placeholders of a peer's command.

use super::*;

fn filled(template: &str) -> Result<Vec<String>, String> {
    let values = BTreeMap::from([
        ("kernel", "/boot/my Image".to_owned()),
        ("cmdline", "console=hvc0 {quiet}".to_owned()),
        ("memory", "256".to_owned()),
    ]);
    command(template, &values)
}

#[test]
fn a_value_with_blanks_stays_one_argument_and_is_not_looked_at_again() {
    assert_eq!(
        filled("vmm -k {kernel} -m {memory}M '-a {cmdline}'").unwrap(),
        [
            "vmm",
            "-k",
            "/boot/my Image",
            "-m",
            "256M",
            "-a console=hvc0 {quiet}"
        ]
    );
}

#[test]
fn doubled_braces_are_braces() {
    assert_eq!(
        filled("sh -c 'f() {{ :; }}; f'").unwrap()[2],
        "f() { :; }; f"
    );
}

#[test]
fn what_cannot_be_filled_is_refused_naming_what_can() {
    for (template, part) in [
        ("", "the command is missing"),
        ("vmm 'open", "unclosed quote"),
        ("vmm {kernel", "unmatched brace"),
        ("vmm kernel}", "unmatched brace"),
        ("vmm {disk}", "this guest has no {disk}"),
        (
            "vmm {disc}",
            "unknown placeholder {disc}, known are kernel, initrd",
        ),
    ] {
        let error = filled(template).unwrap_err();
        assert!(error.contains(part), "{template}: {error}");
    }
}
