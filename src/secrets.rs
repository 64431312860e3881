//! Secrets from a file or a prompt with echo off; never from an argument, never into a log or a core dump.

use std::io::Read;
use std::path::Path;

use zeroize::Zeroizing;

use crate::error::{Code, Error, Result};

/// No core dumps and no debugger of the same user: keys lie in this process's memory.
pub fn harden() {
    let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0);
    // SAFETY: prctl with PR_SET_DUMPABLE takes integers only.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
}

/// The first line of a file, without its line end.
pub fn from_file(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    let file = std::fs::File::open(path).map_err(|e| Error::io(path, &e))?;
    file.take(4096).read_to_end(&mut bytes).map_err(|e| Error::io(path, &e))?;
    first_line(&mut bytes);
    if bytes.is_empty() {
        return Err(Error::new(
            Code::Usage,
            format!("{} has an empty first line.", path.display()),
            "Put the secret on the first line of that file.",
        ));
    }
    Ok(bytes)
}

/// Cuts the bytes to their first line.
fn first_line(bytes: &mut Zeroizing<Vec<u8>>) {
    if let Some(end) = bytes.iter().position(|&b| b == b'\n') {
        bytes.truncate(end);
    }
    if bytes.last() == Some(&b'\r') {
        bytes.pop();
    }
}

/// From the file where one is given, else from the terminal.
pub fn ask(file: Option<&Path>, prompt: &str, option: &str) -> Result<Zeroizing<Vec<u8>>> {
    if let Some(file) = file {
        return from_file(file);
    }
    let text = rpassword::prompt_password(format!("{prompt}: ")).map(Zeroizing::new).map_err(|_| {
        Error::new(
            Code::Usage,
            format!("There is no terminal to ask for: {prompt}."),
            format!("Run kith in a terminal, or give {option} FILE with the secret on the file's first line."),
        )
    })?;
    if text.is_empty() {
        return Err(Error::new(Code::Usage, "Nothing was typed.", "Run the command again and type it."));
    }
    Ok(Zeroizing::new(text.as_bytes().to_vec()))
}

/// A line from the terminal, or from standard input where that is none.
pub fn line(prompt: &str) -> Result<Zeroizing<String>> {
    use std::io::Write;
    print!("{prompt}");
    let _ = std::io::stdout().flush();
    let mut text = Zeroizing::new(String::with_capacity(4096));
    std::io::stdin().read_line(&mut text).map_err(|e| Error::io("standard input", &e))?;
    Ok(text)
}

/// A new passphrase, typed twice where it is typed.
pub fn ask_new(file: Option<&Path>, prompt: &str, option: &str) -> Result<Zeroizing<Vec<u8>>> {
    let first = ask(file, prompt, option)?;
    if file.is_none() && *ask(None, "The same again", option)? != *first {
        return Err(Error::new(Code::Usage, "The two were not the same.", "Run the command again."));
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_the_first_line_of_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pass");
        std::fs::write(&file, "correct horse\r\nnot this\n").unwrap();
        assert_eq!(from_file(&file).unwrap().as_slice(), b"correct horse");
        std::fs::write(&file, "\n").unwrap();
        assert_eq!(from_file(&file).unwrap_err().code, Code::Usage);
    }
}
