//! Objects by identity and facet.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use super::super::codec::Encode as _;
use super::super::error::DecodeError;
use super::super::identity::Identity;
use super::super::message::{Missing, Target};
use super::dispatch::{Dispatcher, Incoming, Responder, Served};

/// The type that every object is of.
const OBJECT: &str = "::Ice::Object";

/// What carries out the operations of an object, or of many.
pub trait Servant: Send + Sync + 'static {
    /// Returns the types that the object is of, the most derived first. `::Ice::Object` need not be among them.
    fn types(&self) -> &[&str];

    /// Carries out an operation. `ice_ping`, `ice_isA`, `ice_id` and `ice_ids` are answered already.
    fn dispatch(&self, incoming: &Incoming<'_>, responder: Responder<'_>) -> Served;
}

type Facets = Vec<(String, Arc<dyn Servant>)>;

#[derive(Default)]
struct Category {
    objects: HashMap<String, Facets>,
    /// Stands in for every object of the category that is not there.
    default: Option<Arc<dyn Servant>>,
}

/// The objects of an adapter: by category, name and facet. They may come and go at any time.
#[derive(Default)]
pub struct Servants {
    categories: RwLock<HashMap<String, Category>>,
}

impl fmt::Debug for Servants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Servants").finish_non_exhaustive()
    }
}

impl Servants {
    /// Makes a table without objects.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an object, or a facet of it. Returns the one that had this place.
    pub fn add(
        &self,
        identity: &Identity,
        facet: &str,
        servant: Arc<dyn Servant>,
    ) -> Option<Arc<dyn Servant>> {
        let mut categories = self
            .categories
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let category = categories.entry(identity.category.clone()).or_default();
        let facets = category.objects.entry(identity.name.clone()).or_default();
        match facets.iter_mut().find(|(known, _)| known == facet) {
            Some((_, place)) => Some(std::mem::replace(place, servant)),
            None => {
                facets.push((facet.to_owned(), servant));
                None
            }
        }
    }

    /// Removes an object, or a facet of it.
    pub fn remove(&self, identity: &Identity, facet: &str) -> Option<Arc<dyn Servant>> {
        let mut categories = self
            .categories
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let category = categories.get_mut(&identity.category)?;
        let facets = category.objects.get_mut(&identity.name)?;
        let at = facets.iter().position(|(known, _)| known == facet)?;
        let (_, removed) = facets.swap_remove(at);
        if facets.is_empty() {
            category.objects.remove(&identity.name);
        }
        if category.objects.is_empty() && category.default.is_none() {
            categories.remove(&identity.category);
        }
        Some(removed)
    }

    /// Removes every facet of an object.
    pub fn remove_all(&self, identity: &Identity) {
        let mut categories = self
            .categories
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(category) = categories.get_mut(&identity.category) {
            category.objects.remove(&identity.name);
            if category.objects.is_empty() && category.default.is_none() {
                categories.remove(&identity.category);
            }
        }
    }

    /// Sets what stands in for every object of a category that is not there; the empty category is for all categories without one.
    pub fn set_default(&self, category: &str, servant: Arc<dyn Servant>) {
        let mut categories = self
            .categories
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        categories.entry(category.to_owned()).or_default().default = Some(servant);
    }

    /// Finds who carries out a call.
    pub fn find(&self, target: &Target<'_>) -> Result<Arc<dyn Servant>, Missing> {
        let categories = self
            .categories
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let category = categories.get(target.category);
        let facets = category.and_then(|category| category.objects.get(target.name));
        let mut known = facets.into_iter().flatten();
        if let Some((_, servant)) = known.find(|(facet, _)| facet == target.facet) {
            return Ok(servant.clone());
        }
        let default = category.and_then(|category| category.default.as_ref());
        let fallback = || categories.get("").and_then(|all| all.default.as_ref());
        match (default.or_else(fallback), facets) {
            (Some(servant), _) => Ok(servant.clone()),
            (None, Some(_)) => Err(Missing::Facet),
            (None, None) => Err(Missing::Object),
        }
    }
}

impl Dispatcher for Servants {
    fn dispatch(&self, incoming: &Incoming<'_>, responder: Responder<'_>) -> Served {
        // No lock is held while the servant is at work.
        match self.find(&incoming.request.target) {
            Ok(servant) => serve(&*servant, incoming, responder),
            Err(missing) => responder.missing(missing),
        }
    }
}

/// Has a servant carry out a call, or answers what can be asked of every object.
pub fn serve(servant: &dyn Servant, incoming: &Incoming<'_>, responder: Responder<'_>) -> Served {
    let params = match incoming.params() {
        Ok(params) => params,
        Err(error) => return responder.malformed(&error),
    };
    // Every operation but these few is not even compared.
    let Some(of_all) = incoming.request.target.operation.strip_prefix("ice_") else {
        return servant.dispatch(incoming, responder);
    };
    let types = servant.types();
    match of_all {
        "ping" => responder.done(|_| {}),
        "isA" => {
            let asked = || -> Result<&str, DecodeError> {
                let mut params = params;
                let asked = params.text()?;
                params.finish()?;
                Ok(asked)
            };
            match asked() {
                Ok(asked) => {
                    let is = asked == OBJECT || types.contains(&asked);
                    responder.done(|writer| is.encode(writer))
                }
                Err(error) => responder.malformed(&error),
            }
        }
        "id" => responder.done(|writer| writer.text(types.first().unwrap_or(&OBJECT))),
        "ids" => {
            let mut all = types.to_vec();
            all.push(OBJECT);
            all.sort_unstable();
            all.dedup();
            responder.done(|writer| all.encode(writer))
        }
        _ => servant.dispatch(incoming, responder),
    }
}
