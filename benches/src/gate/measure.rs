//! Running benches, and reading what they have found.

use std::{
    collections::BTreeMap,
    env, fs, iter,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use super::budgets::Run;

/// Values by name of the bench, one for each round: nanoseconds, or instructions where the name begins with
/// `instructions/`.
pub type Measured = BTreeMap<String, Vec<f64>>;

/// What the name of a bench of instructions begins with.
pub const INSTRUCTIONS: &str = "instructions/";

/// How long criterion measures each bench in a round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Effort {
    /// Seconds of warming up.
    pub warm_up: f64,
    /// Seconds of measuring.
    pub measure: f64,
}

/// The bench programs of one commit.
#[derive(Debug, Clone)]
pub struct Programs {
    /// Where they are, each by the name of its target.
    pub folder: PathBuf,
    /// Where they may write.
    pub work: PathBuf,
}

impl Programs {
    /// The program for bench `name`, if this commit has it.
    fn program(&self, name: &str) -> Option<PathBuf> {
        Some(self.folder.join(name)).filter(|path| path.exists())
    }

    /// Runs what `run` says once, and adds medians to `measured`.
    ///
    /// # Errors
    /// One sentence.
    pub fn time(&self, run: &Run, effort: Effort, measured: &mut Measured) -> Result<(), String> {
        let Some(program) = self.program(&run.bench) else { return Ok(()) };
        let home = self.work.join("criterion");
        // What an earlier round has found must not be read again.
        let _ = fs::remove_dir_all(&home);
        let output = Command::new(&program)
            .args(["--bench", "--noplot", "--sample-size", "20"])
            .args(["--warm-up-time", &effort.warm_up.to_string()])
            .args(["--measurement-time", &effort.measure.to_string()])
            .arg(&run.filter)
            .env("CRITERION_HOME", &home)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("{} cannot be run: {error}", program.display()))?;
        if !output.status.success() {
            return Err(failed(&program, &output.stderr));
        }
        let found = medians(&home)?;
        if found.is_empty() {
            return Err(format!("\"{}\" matches no bench of {}", run.filter, run.bench));
        }
        for (name, median) in found {
            measured.entry(name).or_default().push(median);
        }
        Ok(())
    }

    /// Counts the instructions of everything in the bench `instructions`, with gungraun's runner, which is looked for in
    /// folder `tools` first.
    ///
    /// # Errors
    /// One sentence.
    pub fn count(&self, tools: &Path, measured: &mut Measured) -> Result<(), String> {
        let Some(program) = self.program("instructions") else { return Ok(()) };
        let path = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths(iter::once(tools.to_owned()).chain(env::split_paths(&path)));
        let output = Command::new(&program)
            .arg("--bench")
            .env("PATH", path.map_err(|error| error.to_string())?)
            .env("GUNGRAUN_HOME", self.work.join("gungraun"))
            .env("GUNGRAUN_OUTPUT_FORMAT", "json")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("{} cannot be run: {error}", program.display()))?;
        if !output.status.success() {
            return Err(failed(&program, &output.stderr));
        }
        for line in String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.starts_with('{')) {
            let (name, count) = counted(line).ok_or("gungraun's output has no instructions")?;
            measured.entry(name).or_default().push(count);
        }
        Ok(())
    }
}

fn failed(program: &Path, stderr: &[u8]) -> String {
    format!("{} has failed:\n{}", program.display(), String::from_utf8_lossy(stderr).trim_end())
}

/// Name and instructions in one line of gungraun's.
fn counted(line: &str) -> Option<(String, f64)> {
    let line: Value = serde_json::from_str(line).ok()?;
    let (function, id) = (line.get("function_name")?.as_str()?, line.get("id")?.as_str()?);
    let count = line.pointer("/profiles/0/data/total/metrics/Ir/values/new")?.as_f64()?;
    Some((format!("{INSTRUCTIONS}{function}/{id}"), count))
}

/// What criterion has found, anywhere below `folder`: the median of each bench, in nanoseconds.
fn medians(folder: &Path) -> Result<Vec<(String, f64)>, String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder);
        let entries = entries.map_err(|error| format!("{} cannot be read: {error}", folder.display()))?;
        folders.extend(entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| path.is_dir()));
        if folder.ends_with("new")
            && let Some(median) = median_in(&folder)
        {
            found.push(median);
        }
    }
    Ok(found)
}

fn median_in(folder: &Path) -> Option<(String, f64)> {
    let read = |file: &str| -> Option<Value> {
        serde_json::from_str(&fs::read_to_string(folder.join(file)).ok()?).ok()
    };
    let name = read("benchmark.json")?.get("full_id")?.as_str()?.to_owned();
    let median = read("estimates.json")?.pointer("/median/point_estimate")?.as_f64()?;
    Some((name, median))
}

#[cfg(test)]
mod tests {
    use super::counted;

    #[test]
    fn a_line_of_gungraun_is_read() {
        let line = r#"{"function_name":"request","id":"noop_own",
            "profiles":[{"data":{"total":{"metrics":{"Ir":{"values":{"new":8109}}}}}}]}"#;
        assert_eq!(counted(line), Some(("instructions/request/noop_own".to_owned(), 8109.0)));
        assert_eq!(counted("{}"), None);
    }
}
