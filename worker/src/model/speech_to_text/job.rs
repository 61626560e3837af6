//! One request on its way: its audio is read on a thread of its own, and then written down window by window.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, sync_channel};
use std::time::Duration;

use super::audio::{Unheard, samples};
use super::decoder::{Heard, Piece};
use super::mel::Features;
use super::model::{Model, Window};
use super::request::SpeechToTextRequest;
use super::result::{Said, Transcript};
use super::segments::{Segment, cut};
use crate::model::cache::Cache;
use crate::model::stepwise::{Finish, Working, lost};
use crate::model::{InvalidInput, Item, Progress, RunError};

/// Frames of a second.
const FRAMES: usize = 100;

/// A request that the engine works on.
#[derive(Debug)]
pub(super) struct Job {
    item: Item<SpeechToTextRequest>,
    stage: Stage,
    /// What may have come before its text, as tokens.
    prompt: Vec<u32>,
    language: Option<String>,
    features: Option<Features>,
    /// The frame that its next window begins at.
    from: usize,
    said: Vec<Segment>,
}

#[derive(Debug)]
enum Stage {
    /// Its file is read elsewhere.
    Reading(Receiver<Result<Features, RunError>>),
    /// Its next window was not heard yet.
    Silent,
    /// It is asked which language is spoken.
    Asking(Text),
    Writing(Text),
    Done,
}

/// The tokens of one window.
#[derive(Debug)]
struct Text {
    heard: Arc<Heard>,
    /// None while a piece of it is computed.
    cache: Option<Cache>,
    tokens: Vec<u32>,
    /// Of these, what was not drawn.
    given: usize,
    timed: bool,
}

impl Job {
    pub(super) fn begin(model: &Model, item: Item<SpeechToTextRequest>) -> Result<Self, RunError> {
        let settings = &item.request.settings;
        model.check(settings)?;
        let prompt = model.read_prompt(settings)?;
        let language = settings.language.clone().filter(|_| !model.marks.languages.is_empty());
        let stage = Stage::Reading(read(model, &item)?);
        let job = Self { item, stage, prompt, language, features: None, from: 0, said: Vec::new() };
        job.tell();
        Ok(job)
    }

    pub(super) fn is_reading(&self) -> bool {
        matches!(self.stage, Stage::Reading(_))
    }

    /// Whether it holds what was heard in a window.
    pub(super) fn is_holding(&self) -> bool {
        matches!(self.stage, Stage::Asking(_) | Stage::Writing(_))
    }

    /// What was said until now.
    #[cfg(test)]
    pub(super) fn said(&self) -> &[Segment] {
        &self.said
    }

    /// Tokens that were drawn for the window that is being written.
    pub(super) fn written(&self) -> usize {
        if let Stage::Writing(text) = &self.stage { text.tokens.len() - text.given } else { 0 }
    }

    /// Looks whether its file was read, and waits so long for that.
    pub(super) fn look(&mut self, patience: Duration) -> Result<(), RunError> {
        let Stage::Reading(answer) = &self.stage else { return Ok(()) };
        let read = if patience.is_zero() {
            answer.try_recv().map_err(|error| error == TryRecvError::Empty)
        } else {
            answer.recv_timeout(patience).map_err(|error| error == RecvTimeoutError::Timeout)
        };
        match read {
            Ok(features) => {
                self.features = Some(features?);
                self.stage = Stage::Silent;
                Ok(())
            }
            Err(true) => Ok(()),
            Err(false) => Err(RunError::Model("reading the audio crashed".into())),
        }
    }

    /// The window that is to be heard next, of one that waits for that.
    pub(super) fn window(&self, model: &Model) -> Option<Window> {
        let features = self.features.as_ref().filter(|_| matches!(self.stage, Stage::Silent))?;
        Some(model.cut(features, self.from))
    }

    /// Its window was heard.
    pub(super) fn hear(&mut self, model: &Model, heard: Heard) {
        let heard = Arc::new(heard);
        let asks = self.language.is_none() && !model.marks.languages.is_empty();
        self.stage = if asks {
            Stage::Asking(Text::new(model, heard, vec![model.marks.start], true))
        } else {
            Stage::Writing(self.text(model, heard))
        };
    }

    fn text(&self, model: &Model, heard: Arc<Heard>) -> Text {
        let settings = &self.item.request.settings;
        // where one window ends and the next begins only times can tell
        let timed = settings.timestamps || self.content() > model.window;
        // what came before the audio came before its first window
        let prompt = if self.from == 0 { &*self.prompt } else { &[] };
        let given = model.begin(prompt, self.language.as_deref(), settings.translate, timed);
        Text::new(model, heard, given, timed)
    }

    /// Its next tokens.
    pub(super) fn piece(&mut self) -> Option<Piece> {
        let (Stage::Asking(text) | Stage::Writing(text)) = &mut self.stage else { return None };
        let cache = text.cache.take()?;
        let tokens = text.tokens.get(cache.length()..)?.to_vec();
        Some(Piece { tokens, cache, heard: Arc::clone(&text.heard) })
    }

    /// Takes a piece back that was computed, with the logits after it.
    pub(super) fn take(&mut self, model: &Model, piece: Piece, logits: Vec<f32>) -> Result<(), RunError> {
        let Piece { tokens, mut cache, .. } = piece;
        cache.advance(tokens.len());
        match &mut self.stage {
            Stage::Asking(text) => {
                let heard = Arc::clone(&text.heard);
                self.language = model.marks.language(&logits);
                self.stage = Stage::Writing(self.text(model, heard));
            }
            Stage::Writing(text) => {
                let token = model.marks.next(logits, text.tokens.get(text.given..).unwrap_or_default(), text.timed)?;
                let most = model.most.saturating_add(text.given).min(model.tokens);
                let ended = token == model.marks.end;
                if !ended {
                    text.tokens.push(token);
                }
                if ended || text.tokens.len() >= most {
                    self.end_window(model);
                } else {
                    text.cache = Some(cache);
                }
            }
            Stage::Reading(_) | Stage::Silent | Stage::Done => {}
        }
        Ok(())
    }

    fn end_window(&mut self, model: &Model) {
        let stage = std::mem::replace(&mut self.stage, Stage::Silent);
        let Stage::Writing(text) = stage else { return };
        let frames = (self.content() - self.from).min(model.window);
        let written = text.tokens.get(text.given..).unwrap_or_default();
        let (said, further) = cut(&model.marks, written, self.from, frames);
        self.said.extend(said);
        self.from += further;
        if self.from >= self.content() {
            self.stage = Stage::Done;
        }
    }

    /// Frames that there is audio in.
    fn content(&self) -> usize {
        self.features.as_ref().map_or(0, |features| features.content)
    }

    /// What is left to do for its result.
    pub(super) fn finish(self, model: &Model) -> Result<Finish, RunError> {
        if !self.is_done() {
            return Err(lost());
        }
        let tokenizer = Arc::clone(&model.tokenizer);
        let (duration, english) = (self.content(), model.marks.languages.is_empty());
        let language = self.language.or_else(|| english.then(|| "en".to_owned()));
        Ok(Box::new(move || {
            let one = |Segment { start, end, tokens }: Segment| {
                let text = tokenizer
                    .decode(&tokens, true)
                    .map_err(|error| RunError::Model(format!("the tokens cannot be made a text: {error}")))?;
                Ok(Said { start: start.min(duration), end: end.min(duration), text })
            };
            let said: Vec<Said> = self.said.into_iter().map(one).collect::<Result<_, RunError>>()?;
            let said = said.into_iter().filter(|said| !said.text.trim().is_empty()).collect();
            Ok(Transcript { language, duration, said }.product(&self.item.request))
        }))
    }
}

impl Working for Job {
    fn is_cancelled(&self) -> bool {
        self.item.cancel.is_cancelled()
    }

    fn is_done(&self) -> bool {
        matches!(self.stage, Stage::Done)
    }

    /// In seconds of its audio.
    fn progress(&self) -> Progress {
        let steps = self.content().div_ceil(FRAMES).max(1);
        let step = if self.is_done() { steps } else { (self.from / FRAMES).min(steps - 1) };
        Progress { step: step as u32, steps: steps as u32 }
    }

    fn tell(&self) {
        self.item.tell(self.progress());
    }
}

impl Text {
    fn new(model: &Model, heard: Arc<Heard>, tokens: Vec<u32>, timed: bool) -> Self {
        Self { heard, cache: Some(model.decoder.cache(model.tokens)), given: tokens.len(), tokens, timed }
    }
}

/// Reads a job's file on a thread of its own, so that the device works on others.
fn read(model: &Model, item: &Item<SpeechToTextRequest>) -> Result<Receiver<Result<Features, RunError>>, RunError> {
    let (answer, answered) = sync_channel(1);
    let (request, cancel) = (Arc::clone(&item.request), item.cancel.clone());
    let (mel, window) = (Arc::clone(&model.mel), model.window);
    let read = move || {
        let features = match samples(request.audio.clone(), &cancel) {
            Ok(samples) => Ok(mel.features(samples, window)),
            Err(Unheard::Invalid(message)) => Err(InvalidInput::field(request.field, message).into()),
            Err(Unheard::Cancelled) => Err(RunError::Cancelled),
        };
        // the job may be gone
        drop(answer.send(features));
    };
    std::thread::Builder::new()
        .name("audio".into())
        .spawn(read)
        .map_err(|error| RunError::Model(format!("no thread to read the audio on: {error}")))?;
    Ok(answered)
}
