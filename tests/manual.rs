//! The manual says what is true: every command and option, every exit code, and the pages are well-formed.

use std::process::Command;

fn page(name: &str) -> String {
    std::fs::read_to_string(format!("{}/man/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn help(args: &[&str]) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_kith")).args(args).arg("--help").output().unwrap();
    assert!(out.status.success(), "{args:?}");
    String::from_utf8(out.stdout).unwrap()
}

/// The names in the list of commands of a help text.
fn commands(help: &str) -> Vec<String> {
    let list = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    list.lines().filter_map(|l| l.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn every_command_and_option_is_in_the_manual() {
    let manual = page("kith.1");
    let all = commands(&help(&[]));
    assert!(all.len() >= 11, "{all:?}");
    for command in all {
        assert!(manual.contains(&format!(".It Nm Cm {command}")), "kith.1 lacks {command}");
        let section = manual.split(&format!(".It Nm Cm {command}")).nth(1).unwrap();
        let text = if command == "account" { help(&["account", "add"]) } else { help(&[command.as_str()]) };
        for option in
            text.lines().filter_map(|l| l.trim_start().strip_prefix("--").or(l.trim_start().strip_prefix("-h, --")))
        {
            let option = option.split([' ', '=', ',']).next().unwrap();
            if !["help", "json", "version"].contains(&option) {
                let shared = ["join", "account"].contains(&command.as_str());
                let place = if shared { manual.as_str() } else { section };
                assert!(place.contains(&format!("Fl -{option}")), "kith.1, {command}: lacks --{option}");
            }
        }
    }
}

#[test]
fn every_exit_code_is_in_the_manual_and_no_other() {
    let source = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/error.rs")).unwrap();
    let codes: Vec<u32> = source
        .split("pub enum Code {")
        .nth(1)
        .unwrap()
        .split('}')
        .next()
        .unwrap()
        .lines()
        .filter_map(|l| l.split('=').nth(1)?.trim().trim_end_matches(',').parse().ok())
        .collect();
    let listed = page("kith.1");
    let listed: Vec<u32> = listed
        .split(".Sh EXIT STATUS")
        .nth(1)
        .unwrap()
        .split(".Sh")
        .next()
        .unwrap()
        .lines()
        .filter_map(|l| l.strip_prefix(".It ")?.parse().ok())
        .filter(|c| *c != 0)
        .collect();
    assert_eq!(codes, listed);
}

#[test]
fn the_pages_are_well_formed() {
    for name in ["kith.1", "kith-store.5", "kith-protocol.7"] {
        let text = page(name);
        assert!(text.starts_with(".Dd ") && text.contains("\n.Sh NAME\n"), "{name}");
        for (i, line) in text.lines().enumerate() {
            assert!(!line.ends_with(' '), "{name}:{}: a blank at the end", i + 1);
            assert!(!line.contains('\t'), "{name}:{}: a tab", i + 1);
        }
        let (open, close) = (text.matches("\n.Bl ").count(), text.matches("\n.El").count());
        assert_eq!(open, close, "{name}: a list is not closed");
        assert_eq!(text.matches("\n.Bd ").count(), text.matches("\n.Ed").count(), "{name}: a display is not closed");
    }
}

#[test]
fn the_commands_that_the_readme_and_the_manual_show_exist() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let manual = page("kith.1");
    let examples = manual.split(".Sh EXAMPLES").nth(1).unwrap().split(".Sh SECURITY").next().unwrap();
    let all = commands(&help(&[]));
    let mut seen = 0;
    for line in readme.lines().chain(examples.lines()).filter(|l| l.starts_with("kith ")) {
        let words: Vec<&str> = line.split('#').next().unwrap().split_whitespace().collect();
        assert!(all.iter().any(|c| c == words[1]), "{line}");
        let text = if words[1] == "account" { help(&["account", words[2]]) } else { help(&[words[1]]) };
        for option in words.iter().filter(|w| w.starts_with("--")) {
            assert!(text.contains(option), "{line}: {option}");
        }
        seen += 1;
    }
    assert!(seen >= 10, "{seen}");
}
