//! `codegen`: files in the repository that a program of ours prints, kept current.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::programs::Programs;
use crate::{Fail, Outcome, process, say, term};

/// One generated file.
struct Generated {
    /// From the repository's folder.
    file: &'static str,
    /// The arguments with which the program `postrider` prints it.
    args: &'static [&'static str],
}

/// All generated files.
const GENERATED: &[Generated] = &[
    Generated { file: "docs/config.schema.json", args: &["schema"] },
    Generated { file: "docs/CONFIG.md", args: &["config-reference"] },
];

/// Bound on printing one file.
const PRINT_MAX: Duration = Duration::from_mins(1);

/// Builds the program that prints them.
pub(crate) fn build() -> Outcome<Programs> {
    Programs::build(&["--package", "postrider-cli", "--bins"])
}

/// Writes the generated files, or with `check` fails where one is not current.
pub(crate) fn run(check: bool, programs: &Programs) -> Outcome {
    let program = programs.path("postrider")?;
    let mut stale = Vec::new();
    for generated in GENERATED {
        let fresh = print(program, generated.args)?;
        let path = process::root().join(generated.file);
        let held = fs::read_to_string(&path).unwrap_or_default(); // Absent is stale, too.
        if held == fresh {
            continue;
        }
        if check {
            stale.push(format!("{} ({})", generated.file, difference(&held, &fresh)));
        } else {
            let folder = path.parent().unwrap_or(&path);
            fs::create_dir_all(folder)
                .and_then(|()| fs::write(&path, &fresh))
                .map_err(|error| Fail::new(format_args!("writing {}: {error}", generated.file)))?;
            say!("{} wrote {}", term::good("✓"), generated.file);
        }
    }
    if stale.is_empty() {
        return Ok(());
    }
    Err(Fail::new(format_args!("not current: {}. Type: cargo xtask codegen", stale.join(", "))))
}

fn print(program: &Path, args: &[&str]) -> Outcome<String> {
    let mut text = String::new();
    let mut command = std::process::Command::new(program);
    command.args(args).current_dir(process::root());
    let status = process::read_lines(&mut command, Some(PRINT_MAX), |line| {
        text.push_str(line);
        text.push('\n');
    })?;
    let what = format!("postrider {}", args.join(" "));
    process::succeeded(&what, status)?;
    if text.trim().is_empty() {
        return Err(Fail::new(format_args!("{what} printed nothing")));
    }
    Ok(text)
}

/// Where two texts part, for a message.
fn difference(held: &str, fresh: &str) -> String {
    if held.is_empty() {
        return "absent or empty".into();
    }
    let line =
        held.lines().zip(fresh.lines()).take_while(|(held, fresh)| held == fresh).count() + 1;
    let at = |text: &str| text.lines().nth(line - 1).unwrap_or("the end").trim().to_owned();
    format!("line {line}: has {:?}, should have {:?}", at(held), at(fresh))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_names_its_line() {
        assert_eq!(difference("a\nb\n", "a\nc\n"), r#"line 2: has "b", should have "c""#);
        assert_eq!(difference("a\n", "a\nc\n"), r#"line 2: has "the end", should have "c""#);
        assert_eq!(difference("", "a\n"), "absent or empty");
    }
}
