//! What a Blitz is told: the generated Ice properties file, and the settings in it.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::{Paths, is_live};
use crate::store::{ChoiceError, StoreChoice};

/// The largest properties file, in bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// The longest limit of a session, in milliseconds: a hundred years.
const MAX_LIMIT_MS: u64 = 100 * 365 * 24 * 3600 * 1000;

/// Properties that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PropertiesError {
    /// The file cannot be read.
    #[error("cannot read the properties file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The file is absurdly large.
    #[error("the properties file {path} is larger than {MAX_FILE} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The properties of the store cannot be used.
    #[error("cannot tell where users and sessions are kept")]
    Store(#[source] ChoiceError),
    /// A value is not what it has to be.
    #[error("property {name} has the value {value:?}; allowed is {allowed}")]
    Value {
        /// The property.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        allowed: &'static str,
    },
}

/// The properties of an Ice properties file.
#[derive(Debug, Default)]
pub(crate) struct Properties(HashMap<String, String>);

impl Properties {
    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<Self, PropertiesError> {
        let read = |source| PropertiesError::Read {
            path: path.to_owned(),
            source,
        };
        let mut text = String::new();
        fs::File::open(path)
            .and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text))
            .map_err(read)?;
        if text.len() as u64 > MAX_FILE {
            return Err(PropertiesError::TooLarge {
                path: path.to_owned(),
            });
        }
        Ok(Self::parse(&text))
    }

    /// Parses the text of a file: `name=value`, `#` begins a comment, `\` protects `\`, `#`, `=` and a blank, later lines win,
    /// and an empty value takes the property away.
    pub(crate) fn parse(text: &str) -> Self {
        let mut properties = HashMap::new();
        for (name, value) in text.lines().filter_map(parse_line) {
            if value.is_empty() {
                properties.remove(&name);
            } else {
                properties.insert(name, value);
            }
        }
        override_for(KIND, &mut properties);
        Self(properties)
    }

    fn milliseconds(&self, name: &'static str, default: u64) -> Result<u64, PropertiesError> {
        let allowed = "a whole number of milliseconds, at most a hundred years";
        self.number(name, default, MAX_LIMIT_MS, allowed)
    }

    fn number(
        &self,
        name: &'static str,
        default: u64,
        max: u64,
        allowed: &'static str,
    ) -> Result<u64, PropertiesError> {
        let Some(value) = self.0.get(name) else {
            return Ok(default);
        };
        value
            .parse()
            .ok()
            .filter(|number| *number <= max)
            .ok_or_else(|| PropertiesError::Value {
                name,
                value: value.clone(),
                allowed,
            })
    }

    /// Reads the most there may be of something; 0 is any number.
    fn cap(&self, name: &'static str) -> Result<Option<u64>, PropertiesError> {
        let max = self.number(
            name,
            0,
            u64::from(u32::MAX),
            "a whole number; 0 for no maximum",
        )?;
        Ok((max > 0).then_some(max))
    }

    fn level(&self, name: &'static str) -> Result<Option<String>, PropertiesError> {
        const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];
        match self.0.get(name) {
            Some(level) if !LEVELS.contains(&level.as_str()) => Err(PropertiesError::Value {
                name,
                value: level.clone(),
                allowed: "error, warn, info, debug or trace",
            }),
            level => Ok(level.cloned()),
        }
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.0.get(name).map(PathBuf::from)
    }

    fn boolean(&self, name: &'static str, default: bool) -> Result<bool, PropertiesError> {
        match self.0.get(name).map(String::as_str) {
            None => Ok(default),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(value) => Err(PropertiesError::Value {
                name,
                value: value.to_owned(),
                allowed: "true or false",
            }),
        }
    }
}

/// What kind of server a Blitz is: `KEY.blitz` is its own value of `KEY` (`omero.md` §5.6).
const KIND: &str = "blitz";

/// Lets every `KEY.kind` take the place of `KEY`. The settings of Java virtual machines have such names of their own.
fn override_for(kind: &str, properties: &mut HashMap<String, String>) {
    let own: Vec<(String, String)> = properties
        .iter()
        .filter(|(name, _)| !name.starts_with("omero.jvmcfg."))
        .filter_map(|(name, value)| {
            let key = name.strip_suffix(kind)?.strip_suffix('.')?;
            Some((key.to_owned(), value.clone()))
        })
        .collect();
    properties.extend(own);
}

/// OMERO's event type of what a service does for itself.
const INTERNAL: &str = "Internal";

/// The settings of a Blitz (`omero.md` §2.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// `omero.sessions.timeout`: idle limit of a session that asks for none, in milliseconds.
    pub(crate) idle_ms: u64,
    /// `omero.sessions.maximum`: life limit of a session that asks for none, in milliseconds; 0 for none.
    pub(crate) live_ms: u64,
    /// `omero.sessions.max_user_time_to_idle`: the most to be asked for; 0 for no limit.
    pub(crate) max_idle_ms: u64,
    /// `omero.sessions.max_user_time_to_live`: the most to be asked for; 0 for no limit.
    pub(crate) max_live_ms: u64,
    /// `omero.security.login_failure_throttle_count`: failures that cost no delay.
    pub(crate) throttle_count: u32,
    /// `omero.security.login_failure_throttle_time`: the delay of each further failure.
    pub(crate) throttle_time: Duration,
    /// `omero.security.password_required`: whether an empty stored password matches nothing, also for who is no administrator.
    pub(crate) password_required: bool,
    /// `omero.security.ignore_case`: whether names are lower-cased at login.
    pub(crate) ignore_case: bool,
    /// `omero.grid.sessions.max`: the most user sessions here; `None` for any number.
    pub(crate) max_sessions: Option<u64>,
    /// `omero.grid.sessions.max_per_user`: the most sessions of one user in the whole grid; `None` for any number.
    pub(crate) max_user: Option<u64>,
    /// `omero.grid.store` and what belongs to it: where users and sessions are kept.
    pub(crate) store: StoreChoice,
    /// What is read-only by a property, and how the rest is found out.
    pub(crate) read_only: ReadOnlySettings,
    /// `omero.data.dir`, relative to OMERODIR; `None` where no files are served.
    pub(crate) data_dir: Option<PathBuf>,
    /// `omero.managed.dir`: where imported files are; `ManagedRepository` in the data directory if absent.
    pub(crate) managed_dir: Option<PathBuf>,
    /// `omero.pixeldata.memoizer.dir`: where memo files are; `BioFormatsCache` in the data directory if absent.
    pub(crate) memo_dir: Option<PathBuf>,
    /// `omero.pixeldata.memoizer.dir.local`: where they are while the repository is read-only.
    pub(crate) memo_local_dir: Option<PathBuf>,
    /// `omero.pixeldata.memoizer_wait`: what is read in less time gets no memo file.
    pub(crate) memo_wait: Duration,
    /// `omero.grid.scripts.dir`: where scripts are, relative to OMERODIR.
    pub(crate) scripts_dir: PathBuf,
    /// `omero.scripts.timeout`: how long a script may run.
    pub(crate) script_timeout: Duration,
    /// `omero.grid.log_level`: what this Blitz logs; `None` for what its node was started with.
    pub(crate) log_level: Option<String>,
    /// Every property, for those who may see it.
    pub(crate) all: BTreeMap<String, String>,
    /// `omero.grid.internal_agents`: what services call themselves when they open sessions for themselves.
    pub(crate) internal_agents: Vec<String>,
}

/// Where a Blitz has its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Places {
    /// `omero.data.dir`.
    pub(crate) data: PathBuf,
    /// `omero.managed.dir`.
    pub(crate) managed: PathBuf,
}

impl Places {
    /// Returns the directories that have to be writable.
    pub(crate) fn probed(&self) -> [PathBuf; 2] {
        [self.data.clone(), self.managed.clone()]
    }
}

/// What is read-only by a property, and how the rest is found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReadOnlySettings {
    /// The property that makes the database read-only.
    pub(crate) db: Option<&'static str>,
    /// The property that makes the repository read-only.
    pub(crate) repo: Option<&'static str>,
    /// `omero.grid.read_only.probe`: how long between two probes; `None` for one at the start only.
    pub(crate) probe: Option<Duration>,
    /// `omero.grid.read_only.recover`: whether a refusal ends by itself.
    pub(crate) recovers: bool,
}

impl ReadOnlySettings {
    /// Reads the settings. The deprecated property for both is stronger than `false` for one (`omero.md` §4.1).
    fn of(properties: &Properties) -> Result<Self, PropertiesError> {
        const BOTH: &str = "omero.cluster.read_only";
        let both = properties.boolean(BOTH, false)?;
        let one = |name| -> Result<_, PropertiesError> {
            let set = properties.boolean(name, false)?;
            Ok(if both {
                Some(BOTH)
            } else {
                set.then_some(name)
            })
        };
        let seconds = properties.number(
            "omero.grid.read_only.probe",
            60,
            86_400,
            "a whole number of seconds, at most a day; 0 for a probe at the start only",
        )?;
        Ok(Self {
            db: one("omero.cluster.read_only.db")?,
            repo: one("omero.cluster.read_only.repo")?,
            probe: (seconds > 0).then(|| Duration::from_secs(seconds)),
            recovers: properties.boolean("omero.grid.read_only.recover", false)?,
        })
    }
}

impl Settings {
    /// Reads the settings; absent ones have OMERO's defaults.
    pub(crate) fn of(properties: &Properties) -> Result<Self, PropertiesError> {
        Ok(Self {
            idle_ms: properties.milliseconds("omero.sessions.timeout", 600_000)?,
            live_ms: properties.milliseconds("omero.sessions.maximum", 0)?,
            max_idle_ms: properties
                .milliseconds("omero.sessions.max_user_time_to_idle", 6_000_000)?,
            max_live_ms: properties.milliseconds("omero.sessions.max_user_time_to_live", 0)?,
            throttle_count: properties
                .number(
                    "omero.security.login_failure_throttle_count",
                    1,
                    u64::from(u32::MAX),
                    "a whole number",
                )
                .map(|count| u32::try_from(count).unwrap_or(u32::MAX))?,
            throttle_time: properties
                .number(
                    "omero.security.login_failure_throttle_time",
                    3000,
                    3_600_000,
                    "a whole number of milliseconds, at most an hour",
                )
                .map(Duration::from_millis)?,
            password_required: properties.boolean("omero.security.password_required", true)?,
            ignore_case: properties.boolean("omero.security.ignore_case", false)?,
            max_sessions: properties.cap("omero.grid.sessions.max")?,
            max_user: properties.cap("omero.grid.sessions.max_per_user")?,
            store: StoreChoice::of(|name| properties.0.get(name).cloned())
                .map_err(PropertiesError::Store)?,
            read_only: ReadOnlySettings::of(properties)?,
            data_dir: properties.path("omero.data.dir"),
            managed_dir: properties.path("omero.managed.dir"),
            memo_dir: properties.path("omero.pixeldata.memoizer.dir"),
            memo_local_dir: properties.path("omero.pixeldata.memoizer.dir.local"),
            memo_wait: properties
                .milliseconds("omero.pixeldata.memoizer_wait", 0)
                .map(Duration::from_millis)?,
            scripts_dir: properties
                .path("omero.grid.scripts.dir")
                .unwrap_or_else(|| PathBuf::from("lib/scripts")),
            script_timeout: properties
                .milliseconds("omero.scripts.timeout", 3_600_000)
                .map(Duration::from_millis)?,
            log_level: properties.level("omero.grid.log_level")?,
            all: properties.0.clone().into_iter().collect(),
            internal_agents: properties
                .0
                .get("omero.grid.internal_agents")
                .map_or("Python service", String::as_str)
                .split(',')
                .map(|agent| agent.trim().to_owned())
                .filter(|agent| !agent.is_empty())
                .collect(),
        })
    }

    /// Returns the settings with other values for what may change while the Blitz runs.
    pub(crate) fn with(&self, live: BTreeMap<String, String>) -> Result<Self, PropertiesError> {
        let mut all: HashMap<String, String> = self.all.clone().into_iter().collect();
        all.retain(|name, _| !is_live(name));
        all.extend(live);
        override_for(KIND, &mut all);
        let fresh = Self::of(&Properties(all))?;
        // What is not live stays what it was when the Blitz began.
        Ok(Self {
            store: self.store.clone(),
            ..fresh
        })
    }

    /// Returns where the repository is; `None` if there is none.
    pub(crate) fn repository(&self, paths: &Paths) -> Option<Places> {
        let data = paths.dir().join(self.data_dir.as_ref()?);
        let managed = match &self.managed_dir {
            Some(dir) => paths.dir().join(dir),
            None => data.join("ManagedRepository"),
        };
        Some(Places { data, managed })
    }

    /// Returns whether a service opens the session for itself: by OMERO's event type, or by what it calls itself.
    pub(crate) fn is_internal(&self, event: &str, agent: &str) -> bool {
        event == INTERNAL
            || self
                .internal_agents
                .iter()
                .any(|internal| internal == agent)
    }

    /// Settles what a session may have of the limits it asks for, or says which maximum is in the way.
    pub(crate) fn limits(
        &self,
        idle: Option<u64>,
        live: Option<u64>,
    ) -> Result<(u64, u64), String> {
        limit("idle", idle, self.idle_ms, self.max_idle_ms)
            .and_then(|idle| Ok((idle, limit("live", live, self.live_ms, self.max_live_ms)?)))
    }
}

fn limit(what: &str, wanted: Option<u64>, default: u64, max: u64) -> Result<u64, String> {
    let Some(wanted) = wanted else {
        return Ok(default);
    };
    // 0 asks for no limit at all, which is more than any maximum.
    if max > 0 && (wanted == 0 || wanted > max) {
        let asked = if wanted == 0 {
            "no limit".to_owned()
        } else {
            format!("{wanted} ms")
        };
        return Err(format!(
            "a time to {what} of {asked} is more than omero.sessions.max_user_time_to_{what} allows ({max} ms)"
        ));
    }
    if wanted > MAX_LIMIT_MS {
        return Err(format!(
            "a time to {what} of {wanted} ms is more than a hundred years"
        ));
    }
    Ok(wanted)
}

fn parse_line(line: &str) -> Option<(String, String)> {
    let mut parts = [String::new(), String::new()];
    // Blanks count only once something follows them.
    let mut blanks = String::new();
    let mut at = 0;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        let part = &mut parts[at];
        match c {
            '#' => break,
            '=' if at == 0 => {
                at = 1;
                blanks.clear();
            }
            '\\' => {
                let protected = chars.next_if(|next| matches!(next, '\\' | '#' | '=' | ' '));
                part.push_str(&std::mem::take(&mut blanks));
                part.push(protected.unwrap_or('\\'));
            }
            ' ' | '\t' | '\r' => {
                if !part.is_empty() {
                    blanks.push(c);
                }
            }
            c => {
                part.push_str(&std::mem::take(&mut blanks));
                part.push(c);
            }
        }
    }
    let [name, value] = parts;
    (at == 1 && !name.is_empty()).then_some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_node_generates() {
        let properties = Properties::parse(
            "# Node properties\nA=1\n  B = two words \\ # comment\nC=a\\#b\nD=C:\\dir\nE=\\\\\\host\nF\\=G=x=y\nA=\nnothing\n=x\nH=1\r\nH=2\r\n",
        );
        let get = |name: &str| properties.0.get(name).map(String::as_str);
        assert_eq!(get("A"), None, "an empty value takes it away");
        assert_eq!(get("B"), Some("two words  "), "a protected blank stays");
        assert_eq!(get("C"), Some("a#b"));
        assert_eq!(get("D"), Some("C:\\dir"));
        assert_eq!(get("E"), Some("\\\\host"));
        assert_eq!(get("F=G"), Some("x=y"));
        assert_eq!(get("H"), Some("2"), "later lines win");
        assert_eq!(properties.0.len(), 6);
    }

    #[test]
    fn absent_settings_have_omeros_defaults() {
        let settings = Settings::of(&Properties::default()).unwrap();
        assert_eq!(settings.limits(None, None), Ok((600_000, 0)));
        assert_eq!(
            (settings.throttle_count, settings.throttle_time.as_millis()),
            (1, 3000)
        );
        assert!(settings.password_required);
    }

    #[test]
    fn every_key_of_this_kind_of_server_takes_the_place_of_the_other() {
        let text = "omero.sessions.timeout=1\nomero.sessions.timeout.blitz=2\nomero.sessions.maximum.blitz=3\n\
            omero.sessions.maximum=4\nomero.sessions.timeout.indexer=5\nomero.jvmcfg.percent.blitz=6";
        let settings = Settings::of(&Properties::parse(text)).unwrap();
        assert_eq!((settings.idle_ms, settings.live_ms), (2, 3));
        assert!(!settings.all.contains_key("omero.jvmcfg.percent"));
        let live = BTreeMap::from([("omero.sessions.maximum".to_owned(), "7".to_owned())]);
        let changed = settings.with(live).unwrap();
        assert_eq!((changed.idle_ms, changed.live_ms), (600_000, 7));
        let wrong = BTreeMap::from([("omero.sessions.maximum".to_owned(), "soon".to_owned())]);
        assert!(settings.with(wrong).is_err());
    }

    #[test]
    fn refuses_bad_values_by_name() {
        for (name, value) in [
            ("omero.sessions.timeout", "soon"),
            ("omero.sessions.timeout", "-1"),
            ("omero.sessions.maximum", "99999999999999999999"),
            ("omero.security.password_required", "TRUE"),
            ("omero.security.login_failure_throttle_count", "4294967296"),
        ] {
            let error = Settings::of(&Properties::parse(&format!("{name}={value}")))
                .unwrap_err()
                .to_string();
            assert!(
                error.contains(name) && error.contains(value) && error.contains("allowed"),
                "{error}"
            );
        }
    }

    #[test]
    fn the_idle_maximum_holds_also_without_a_live_maximum() {
        let settings = Settings::of(&Properties::parse(
            "omero.sessions.max_user_time_to_idle=1000",
        ))
        .unwrap();
        assert_eq!(settings.limits(Some(1000), Some(0)), Ok((1000, 0)));
        for idle in [0, 1001] {
            let refused = settings.limits(Some(idle), None).unwrap_err();
            assert!(
                refused.contains("omero.sessions.max_user_time_to_idle"),
                "{refused}"
            );
        }
        assert!(settings.limits(None, Some(u64::MAX)).is_err());
    }
}
