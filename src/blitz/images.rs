//! What an image file says of itself, through memo files.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::image;
use super::memo::{Memo, MemoDirs};
use super::properties::Settings;
use super::repository::Repository;
use super::service::Blitz;
use crate::config::Paths;
use crate::ipc::message::blitz::Reply;
use crate::ipc::{Refusal, RefusalKind};
use crate::telemetry::chain;

/// The memo files of a Blitz; other directories count while its repository is read-only.
pub(super) struct Images {
    shared: PathBuf,
    local: Option<PathBuf>,
    wait: std::time::Duration,
    memo: Mutex<Option<(bool, Arc<Memo>)>>,
}

impl Images {
    /// Takes note of where memo files are; `None` without a data directory.
    pub(super) fn new(settings: &Settings, paths: &Paths) -> Option<Self> {
        let places = settings.repository(paths)?;
        let resolve = |dir: &PathBuf| paths.dir().join(dir);
        Some(Self {
            shared: settings
                .memo_dir
                .as_ref()
                .map_or_else(|| places.data.join("BioFormatsCache"), resolve),
            local: settings.memo_local_dir.as_ref().map(resolve),
            wait: settings.memo_wait,
            memo: Mutex::default(),
        })
    }

    fn memo(&self, read_only: bool) -> Arc<Memo> {
        let mut memo = self.memo.lock().unwrap_or_else(PoisonError::into_inner);
        match &*memo {
            Some((known, memo)) if *known == read_only => memo.clone(),
            _ => {
                let made = Arc::new(Memo::new(MemoDirs {
                    shared: self.shared.clone(),
                    local: self.local.clone(),
                    read_only,
                    wait: self.wait,
                }));
                *memo = Some((read_only, made.clone()));
                made
            }
        }
    }
}

impl Blitz {
    pub(super) async fn image(
        self: &Arc<Self>,
        repository: &Arc<Repository>,
        id: u64,
    ) -> Result<Reply, Refusal> {
        let Some(images) = self.images.clone() else {
            return Err(Refusal::new(RefusalKind::NotFound, "there are no images"));
        };
        let read_only = self.read_only.borrow().repo.is_some();
        repository
            .run(move |repository| {
                let (file, path) = repository.open(id)?;
                let length = file.metadata().map_or(0, |metadata| metadata.len());
                let known = images
                    .memo(read_only)
                    .open(&path, &file, || image::info(&file, length));
                let (image, origin) = known.map_err(|error| {
                    Refusal::new(RefusalKind::Failed, format!("file {id}: {}", chain(&error)))
                })?;
                Ok(Reply::Image {
                    image: Box::new(image),
                    origin,
                })
            })
            .await
    }
}
