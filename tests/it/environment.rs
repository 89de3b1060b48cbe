//! What the driver tests need and the repository does not hold: a Python environment, a folder of npm packages.
//!
//! Always: each is made once under `target/`, from the pinned lists in `drivers/`, by one process at a time, and again only
//! when its list has changed. Where it cannot be made, one line says what is missing.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::FlockOperation;

use crate::machine::scratch;

/// The lists and the scripts that use them.
pub fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/drivers")
}

/// The Python that has the driver.
pub fn python() -> Result<PathBuf, String> {
    let list = scripts().join("requirements.txt");
    let folder = made_once("python", &[&list], |folder| {
        let why = "Python 3 with its venv module (on Debian: apt-get install python3 python3-venv)";
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder), why)?;
        let why = "the package rethinkdb from the Python package index";
        let mut install = Command::new(folder.join("bin/python"));
        install.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--require-hashes",
            "-r",
        ]);
        run(install.arg(&list), why)
    })?;
    Ok(folder.join("bin/python"))
}

/// The folder whose `node_modules` has the drivers and the data sets.
pub fn npm() -> Result<PathBuf, String> {
    let lists = [scripts().join("package.json"), scripts().join("package-lock.json")];
    made_once("npm", &[&lists[0], &lists[1]], |folder| {
        run(
            Command::new("node").arg("--version"),
            "Node.js 20 or newer (on Debian: apt-get install nodejs npm)",
        )?;
        for list in &lists {
            let name = list.file_name().expect("a file");
            std::fs::copy(list, folder.join(name)).map_err(|error| format!("{}: {error}", list.display()))?;
        }
        let mut install = Command::new("npm");
        install.args(["ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"]).current_dir(folder);
        run(&mut install, "the packages of tests/it/drivers/package-lock.json from the npm registry")
    })
}

/// A folder that `make` fills, unless it was filled from the same lists before.
fn made_once(
    name: &str,
    lists: &[&Path],
    make: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<PathBuf, String> {
    let folder = scratch().join(name);
    let trouble = |error: std::io::Error| format!("{} cannot be made: {error}", folder.display());
    std::fs::create_dir_all(scratch()).map_err(trouble)?;
    let lock = File::create(scratch().join(format!("{name}.lock"))).map_err(trouble)?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(|errno| trouble(errno.into()))?;
    let mut wanted = String::new();
    for list in lists {
        wanted.push_str(&std::fs::read_to_string(list).map_err(trouble)?);
    }
    let stamp = scratch().join(format!("{name}.stamp"));
    if folder.exists() && std::fs::read_to_string(&stamp).is_ok_and(|made| made == wanted) {
        return Ok(folder);
    }
    let _ = std::fs::remove_file(&stamp);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).map_err(trouble)?;
    make(&folder)?;
    std::fs::write(&stamp, wanted).map_err(trouble)?;
    Ok(folder)
}

/// Runs a step; a failure is one line: what is missing, and the last that the step said.
fn run(command: &mut Command, needs: &str) -> Result<(), String> {
    let reason = match command.output() {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            let text = String::from_utf8_lossy(&text).into_owned();
            text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("it said nothing").to_owned()
        }
        Err(error) => error.to_string(),
    };
    Err(format!("the driver tests need {needs}: {reason}"))
}
