//! `--report FILE`: a probe's report in a file, in the form that the file's name asks for.

use std::{fs, path::PathBuf, str::FromStr};

use crate::{
    error::{Error, Exit, Result},
    probe::ProbeReport,
};

/// Where a report goes, and in which form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReportFile {
    path: PathBuf,
    form: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Html,
    Junit,
    Json,
    Text,
}

impl FromStr for ReportFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let path = PathBuf::from(text);
        let form = match path.extension().and_then(|extension| extension.to_str()) {
            Some("html") => Form::Html,
            Some("xml") => Form::Junit,
            Some("json") => Form::Json,
            Some("txt") => Form::Text,
            _ => return Err("name it .html, .xml (JUnit), .json or .txt".into()),
        };
        let folder = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        match folder {
            Some(folder) if !folder.is_dir() => {
                Err(format!("{} is not a folder", folder.display()))
            }
            _ => Ok(Self { path, form }),
        }
    }
}

impl ReportFile {
    /// Writes the report.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn write(&self, report: &ProbeReport) -> Result<()> {
        let text = match self.form {
            Form::Html => report.to_html()?,
            Form::Junit => report.to_junit()?,
            Form::Json => json(report)?,
            Form::Text => report.to_string(),
        };
        fs::write(&self.path, text).map_err(|e| Error::io("write", &self.path, e))
    }
}

/// The report's JSON, without a line end.
pub(super) fn json(report: &ProbeReport) -> Result<String> {
    serde_json::to_string_pretty(report)
        .map_err(|e| Error::new(Exit::Internal, "cannot write the report").why(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_tells_the_form() {
        let form = |text: &str| text.parse::<ReportFile>().map(|file| file.form);
        assert_eq!(form("report.html"), Ok(Form::Html));
        assert_eq!(form("./probe.xml"), Ok(Form::Junit));
        assert!(form("report").unwrap_err().contains(".html"));
        assert!(
            form("/nowhere/at/all/r.html")
                .unwrap_err()
                .contains("folder")
        );
    }
}
