//! Files that benches, load tests and profilers have left, as the pages are told of them.

use std::{
    fs,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use serde_json::{Value, json};

/// Most bytes of a file that is read.
const MOST_BYTES: u64 = 16 << 20;

/// Most files of a folder that are read: those with the last names.
const MOST_FILES: usize = 500;

/// Where they are. One that is not there is empty.
#[derive(Debug)]
pub(super) struct Folders {
    pub(super) history: PathBuf,
    pub(super) loads: PathBuf,
    pub(super) flamegraphs: PathBuf,
}

/// Every run of the gate: the lines of all `*.jsonl` in the folder, in the order of their times.
pub(super) fn benches(folders: &Folders) -> Value {
    let mut problems = Vec::new();
    let mut runs = Vec::new();
    for (name, path) in files(&folders.history, "jsonl") {
        let text = match read(&path) {
            Ok(text) => text,
            Err(why) => {
                problems.push(format!("{name}: {why}"));
                continue;
            }
        };
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            match serde_json::from_str::<Value>(line) {
                Ok(run) if run["results"].is_array() => runs.push(run),
                Ok(_) => problems.push(format!("{name}:{}: it has no results", number + 1)),
                Err(error) => problems.push(format!("{name}:{}: {error}", number + 1)),
            }
        }
    }
    runs.sort_by_key(|run| run["time"].as_u64());
    json!({"folder": folders.history.display().to_string(), "runs": runs, "problems": problems})
}

/// Every load test: the objects in all `*.json` of the folder, by the name of their file.
pub(super) fn loads(folders: &Folders) -> Value {
    let mut problems = Vec::new();
    let mut runs = Vec::new();
    for (name, path) in files(&folders.loads, "json") {
        match read(&path)
            .and_then(|text| serde_json::from_str::<Value>(&text).map_err(|error| error.to_string()))
        {
            Ok(run) if run["servers"].is_array() => runs.push(json!({"name": name, "run": run})),
            Ok(_) => problems.push(format!("{name}: it is no result of a load test")),
            Err(why) => problems.push(format!("{name}: {why}")),
        }
    }
    json!({"folder": folders.loads.display().to_string(), "runs": runs, "problems": problems})
}

/// Every flame graph: the names of all `*.svg` in the folder, and what their first comment says.
pub(super) fn pictures(folders: &Folders) -> Value {
    let pictures = files(&folders.flamegraphs, "svg").into_iter().map(|(name, path)| {
        let modified = fs::metadata(&path).and_then(|metadata| metadata.modified()).ok();
        let modified = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let about = read(&path).ok().and_then(|text| about(&text)).unwrap_or_default();
        json!({"name": name, "about": about, "modified": modified.map(|since| since.as_secs())})
    });
    let pictures: Vec<_> = pictures.collect();
    json!({"folder": folders.flamegraphs.display().to_string(), "pictures": pictures})
}

/// The flame graph in file `name`, if that is one of those that [`pictures`] names.
pub(super) fn picture(folders: &Folders, name: &str) -> Option<Vec<u8>> {
    let (_, path) = files(&folders.flamegraphs, "svg").into_iter().find(|(found, _)| found == name)?;
    read(&path).ok().map(String::into_bytes)
}

/// Names and paths of files in `folder` whose names end with `.extension`, sorted; the last ones where there are many.
fn files(folder: &Path, extension: &str) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let files = entries.filter_map(|entry| {
        let path = entry.path();
        let fits = path.extension().is_some_and(|found| found == extension) && path.is_file();
        Some((entry.file_name().into_string().ok()?, path)).filter(|_| fits)
    });
    let mut files: Vec<_> = files.collect();
    files.sort();
    files.drain(..files.len().saturating_sub(MOST_FILES));
    files
}

fn read(path: &Path) -> Result<String, String> {
    let bytes = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if bytes > MOST_BYTES {
        return Err(format!("it has {bytes} bytes, which is more than {MOST_BYTES}"));
    }
    fs::read_to_string(path).map_err(|error| error.to_string())
}

/// The text of the first comment that begins a line.
fn about(svg: &str) -> Option<String> {
    let (_, rest) = svg.split_once("\n<!-- weir\n")?;
    let (text, _) = rest.split_once("\n-->")?;
    Some(text.to_owned())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::{Folders, benches, loads, picture, pictures};

    fn folders(folder: &Path) -> Folders {
        let folder = folder.to_owned();
        Folders { history: folder.clone(), loads: folder.clone(), flamegraphs: folder }
    }

    #[test]
    fn folders_that_are_not_there_are_empty() {
        let folders = folders(Path::new("/nowhere/at/all"));
        assert_eq!(benches(&folders)["runs"].as_array().map(Vec::len), Some(0));
        assert_eq!(loads(&folders)["runs"].as_array().map(Vec::len), Some(0));
        assert_eq!(pictures(&folders)["pictures"].as_array().map(Vec::len), Some(0));
    }

    #[test]
    fn what_cannot_be_read_is_told_and_the_rest_is_shown() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("written");
        let line = |time: u32| format!(r#"{{"commit":"c{time}","time":{time},"results":[]}}"#);
        write("a.jsonl", &format!("{}\n\n{{\n{}\n7\n", line(2), line(1)));
        let folders = folders(folder.path());
        let found = benches(&folders);
        assert_eq!((&found["runs"][0]["commit"], &found["runs"][1]["commit"]), (&"c1".into(), &"c2".into()));
        let problems = found["problems"].to_string();
        assert!(
            problems.contains("a.jsonl:3: ") && problems.contains("a.jsonl:5: it has no results"),
            "{problems}"
        );
    }

    #[test]
    fn results_of_load_tests_are_those_that_have_servers() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("written");
        write("b.json", r#"{"profile":"smoke","servers":[]}"#);
        write("c.json", "{}");
        write("d.json", "{");
        let found = loads(&folders(folder.path()));
        let run = serde_json::json!({"profile": "smoke", "servers": []});
        assert_eq!(found["runs"], serde_json::json!([{"name": "b.json", "run": run}]));
        assert_eq!(found["problems"].as_array().map(Vec::len), Some(2), "{found}");
    }

    #[test]
    fn pictures_are_those_of_the_folder_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let inner = folder.path().join("in");
        fs::create_dir(&inner).expect("a folder");
        fs::write(folder.path().join("outside.svg"), "secret").expect("written");
        fs::write(inner.join("a.svg"), "<?xml?>\n<!-- weir\ncommit: abc\ncommand: x\n-->\n<svg/>")
            .expect("written");
        let folders = folders(&inner);
        let found = pictures(&folders);
        assert_eq!(found["pictures"][0]["about"], "commit: abc\ncommand: x");
        assert!(picture(&folders, "a.svg").is_some());
        for name in ["../outside.svg", "outside.svg", "", ".", "a", "/etc/passwd"] {
            assert!(picture(&folders, name).is_none(), "{name}");
        }
    }
}
