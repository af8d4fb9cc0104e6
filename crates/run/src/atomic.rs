use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::read::read_at_most;

/// Marks the temporary siblings of files that are being written.
const TEMPORARY: &str = ".tmp-";

/// A stage's result may hold thousands of answers, and no more.
const LARGEST_JSON: u64 = 256 << 20;

/// Writes a file so that a reader, or a run resumed after a crash, sees the old content or the
/// new content, and never a part: temporary sibling, sync, rename, sync of the folder.
///
/// A symbolic link at `path` is replaced, not followed.
///
/// # Errors
/// [`Error::NoSpace`] on a full disk and [`Error::Io`] otherwise; the old file is then untouched
/// and the temporary one removed.
pub fn write_atomic(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let path = path.as_ref();
    let temporary = temporary_sibling(path);
    let written = write_synced(&temporary, bytes)
        .map_err(|e| Error::write(path, bytes.len() as u64, e))
        .and_then(|()| fs::rename(&temporary, path).map_err(|e| Error::io("replace", path, e)));
    if written.is_err() {
        // The first error is the one worth telling; what is left is removed at the next opening.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    sync_folder(parent(path))
}

/// Writes a value as indented JSON through [`write_atomic`].
///
/// # Errors
/// As [`write_atomic`]; [`Error::Unwritable`] where the value has no JSON form.
pub fn write_json<T: Serialize + ?Sized>(path: impl AsRef<Path>, value: &T) -> Result<()> {
    let path = path.as_ref();
    let mut text = serde_json::to_vec_pretty(value).map_err(|e| unwritable(path, e))?;
    text.push(b'\n');
    write_atomic(path, &text)
}

/// Reads a JSON file.
///
/// # Errors
/// [`Error::Json`] names the file and the field at fault, [`Error::Io`] and [`Error::Unexpected`] the file.
pub fn read_json<T: DeserializeOwned>(path: impl AsRef<Path>) -> Result<T> {
    let path = path.as_ref();
    let text = read_at_most(path, LARGEST_JSON)?;
    parse(&text).map_err(|e| Error::json(path.display().to_string(), e))
}

/// Appends a value as one line of a JSONL log, after cutting off what a killed run left unended.
///
/// The line is not synced: it outlives the process, not the power.
///
/// # Errors
/// [`Error::NoSpace`] or [`Error::Io`]; the log then ends where it ended before.
pub fn append_line<T: Serialize + ?Sized>(path: impl AsRef<Path>, value: &T) -> Result<()> {
    let path = path.as_ref();
    let mut line = serde_json::to_vec(value).map_err(|e| unwritable(path, e))?;
    line.push(b'\n');
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .open(path)
        .map_err(|e| Error::io("open", path, e))?;
    let end = cut_torn_line(&mut file).map_err(|e| Error::io("repair the end of", path, e))?;
    file.write_all(&line).map_err(|e| {
        // Half a line would be dropped on reading anyway.
        let _ = file.set_len(end);
        Error::write(path, line.len() as u64, e)
    })
}

/// Reads a JSONL log; a last line without its end, left by a killed run, is dropped. A file that
/// does not exist has no lines.
///
/// # Errors
/// [`Error::Json`] names file, line and field.
pub fn read_lines<T: DeserializeOwned>(path: impl AsRef<Path>) -> Result<Vec<T>> {
    let path = path.as_ref();
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("read", path, e)),
    };
    let whole = text
        .iter()
        .rposition(|&b| b == b'\n')
        .map_or(&[][..], |end| &text[..end]);
    let mut values = Vec::new();
    for (i, line) in whole.split(|&b| b == b'\n').enumerate() {
        if !line.trim_ascii().is_empty() {
            let place = || format!("{}:{}", path.display(), i + 1);
            values.push(parse(line).map_err(|e| Error::json(place(), e))?);
        }
    }
    Ok(values)
}

/// Keeps only the lines of a JSONL log that `keep` accepts: a run resumed from a checkpoint drops
/// what was logged after it.
///
/// # Errors
/// As [`read_lines`] and [`write_atomic`].
pub fn retain_lines<T: Serialize + DeserializeOwned>(
    path: impl AsRef<Path>,
    mut keep: impl FnMut(&T) -> bool,
) -> Result<()> {
    let path = path.as_ref();
    let mut values: Vec<T> = read_lines(path)?;
    let before = values.len();
    values.retain(|v| keep(v));
    if values.len() == before {
        return Ok(());
    }
    let mut text = Vec::new();
    for value in &values {
        serde_json::to_writer(&mut text, value).map_err(|e| unwritable(path, e))?;
        text.push(b'\n');
    }
    write_atomic(path, &text)
}

/// Parses straight from the bytes: through a `Value` an `f32` would be rounded twice.
pub(crate) fn parse<T: DeserializeOwned>(
    text: &[u8],
) -> std::result::Result<T, serde_path_to_error::Error<serde_json::Error>> {
    let mut parser = serde_json::Deserializer::from_slice(text);
    let value = serde_path_to_error::deserialize(&mut parser)?;
    parser.end().map_err(|e| serde_path_to_error::Error::new(root(), e))?;
    Ok(value)
}

/// Writes a new file and waits until it is on the disk.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// A name beside `path` that no other writer uses.
pub(crate) fn temporary_sibling(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    name.push(format!("{TEMPORARY}{}-{n}", std::process::id()));
    parent(path).join(name)
}

/// Whether [`temporary_sibling`] gave this name.
pub(crate) fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && name.contains(TEMPORARY)
}

/// Removes what killed writers left in a folder that only this process writes to.
pub(crate) fn remove_temporaries(folder: &Path) -> Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io("list", folder, e)),
    };
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("list", folder, e))?;
        if entry.file_name().to_str().is_some_and(is_temporary) {
            let path = entry.path();
            let is_dir = entry.file_type().is_ok_and(|t| t.is_dir());
            let removed = if is_dir {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.map_err(|e| Error::io("remove", &path, e))?;
        }
    }
    Ok(())
}

/// Makes the names in a folder durable; only Unix can.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    if cfg!(unix) {
        let synced = File::open(folder).and_then(|f| f.sync_all());
        synced.map_err(|e| Error::io("sync the folder", folder, e))?;
    }
    Ok(())
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

fn unwritable(path: &Path, source: serde_json::Error) -> Error {
    Error::Unwritable {
        place: path.display().to_string(),
        source,
    }
}

fn root() -> serde_path_to_error::Path {
    serde_path_to_error::Track::new().path()
}

/// Cuts the file after its last whole line and returns that length.
fn cut_torn_line(file: &mut File) -> io::Result<u64> {
    const BLOCK: u64 = 4096;
    let len = file.metadata()?.len();
    let mut end = len;
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        let mut block = vec![0; (end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block)?;
        if let Some(at) = block.iter().rposition(|&b| b == b'\n') {
            end = start + at as u64 + 1;
            break;
        }
        end = start;
    }
    if end < len {
        file.set_len(end)?;
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::Rng;
    use serde::Deserialize;

    use super::*;
    use crate::Seed;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Row {
        step: u64,
        loss: f32,
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_whole_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.bin");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(names(dir.path()), ["a.bin"]);
    }

    #[test]
    fn a_failed_write_removes_its_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("folder");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("x"), "x").unwrap();
        let error = write_atomic(&path, b"data").unwrap_err().to_string();
        assert!(error.contains("folder"), "{error}");
        assert_eq!(names(dir.path()), ["folder"]);
    }

    #[test]
    fn every_finite_float_comes_back_bit_for_bit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("floats.json");
        let mut rng = Seed::new(1).stream("floats");
        let wide: Vec<f64> = (0..20_000).map(|_| f64::from_bits(rng.next_u64())).collect();
        let wide: Vec<f64> = wide.into_iter().filter(|x| x.is_finite()).chain([-0.0]).collect();
        let narrow: Vec<f32> = (0..20_000).map(|_| f32::from_bits(rng.next_u32())).collect();
        let narrow: Vec<f32> = narrow.into_iter().filter(|x| x.is_finite()).collect();
        write_json(&path, &(&wide, &narrow)).unwrap();
        let (w, n): (Vec<f64>, Vec<f32>) = read_json(&path).unwrap();
        assert!(w.iter().zip(&wide).all(|(a, b)| a.to_bits() == b.to_bits()));
        assert!(n.iter().zip(&narrow).all(|(a, b)| a.to_bits() == b.to_bits()));
        assert_eq!((w.len(), n.len()), (wide.len(), narrow.len()));
    }

    #[test]
    fn a_json_error_names_file_and_field() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.json");
        fs::write(&path, r#"{"rows": [{"step": 1, "loss": "low"}]}"#).unwrap();
        let error = read_json::<BTreeMap<String, Vec<Row>>>(&path).unwrap_err().to_string();
        assert!(error.contains("m.json") && error.contains("rows[0].loss"), "{error}");
        fs::write(&path, r#"{} {}"#).unwrap();
        let error = read_json::<BTreeMap<String, Row>>(&path).unwrap_err().to_string();
        assert!(error.contains("trailing"), "{error}");
    }

    #[test]
    fn a_torn_last_line_is_dropped_on_reading_and_cut_on_appending() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let row = |step| Row { step, loss: 0.1 };
        assert_eq!(read_lines::<Row>(&path).unwrap(), []);
        append_line(&path, &row(1)).unwrap();
        let mut text = fs::read(&path).unwrap();
        text.extend(br#"{"step":2,"lo"#);
        fs::write(&path, text).unwrap();
        assert_eq!(read_lines::<Row>(&path).unwrap(), [row(1)]);
        append_line(&path, &row(2)).unwrap();
        append_line(&path, &row(3)).unwrap();
        assert_eq!(read_lines::<Row>(&path).unwrap(), [row(1), row(2), row(3)]);
        retain_lines(&path, |r: &Row| r.step <= 2).unwrap();
        assert_eq!(read_lines::<Row>(&path).unwrap(), [row(1), row(2)]);
    }

    #[test]
    fn a_torn_line_longer_than_a_block_is_cut_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        fs::write(&path, format!("1\n{}", "9".repeat(10_000))).unwrap();
        append_line(&path, &2).unwrap();
        assert_eq!(read_lines::<u32>(&path).unwrap(), [1, 2]);
        fs::write(&path, "9".repeat(10_000)).unwrap();
        append_line(&path, &3).unwrap();
        assert_eq!(read_lines::<u32>(&path).unwrap(), [3]);
    }

    #[test]
    fn a_bad_line_in_the_middle_is_an_error_with_its_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        fs::write(&path, "{\"step\":1,\"loss\":1}\n{\"step\":-2,\"loss\":1}\n").unwrap();
        let error = read_lines::<Row>(&path).unwrap_err().to_string();
        assert!(error.contains("metrics.jsonl:2") && error.contains("step"), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_device_is_named_with_the_bytes_needed() {
        let error = append_line("/dev/full", &"four").unwrap_err();
        assert!(matches!(error, Error::NoSpace { needed: 7, .. }), "{error}");
        assert!(error.to_string().contains("/dev/full"), "{error}");
    }
}
