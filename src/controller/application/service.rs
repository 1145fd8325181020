//! Perform, at the service: one call for each step.

use std::{collections::BTreeSet, sync::Arc};

use kube::ResourceExt;

use super::super::{cluster::Abort, directory::Service};
use super::{Pass, spec::urgency};
use crate::{
    model::{Application, Class, ClientId, Failure},
    plan::application::{Outcome, Sight, Step},
    provider::{AppId, Caller, Registrar, TokenEndpoint},
    reasons::Reason,
};

impl Pass {
    pub(super) fn caller(&self) -> Caller {
        Caller {
            namespace: self.subject.namespace.clone(),
            urgency: urgency(&self.object),
            requester: self.subject.uid.clone(),
            fence: Some(self.context.leadership.clone()),
        }
    }

    pub(super) fn app_id(&self) -> Result<Arc<AppId>, Failure> {
        match self.connection.as_ref().map(|connection| &connection.service) {
            Some(Service::AppId(app_id)) => Ok(app_id.clone()),
            _ => Err(Failure::new("reaching the service", Class::Transient, Reason::ProviderNotReady, "the provider is not ready")),
        }
    }

    pub(super) async fn register(&mut self) -> Result<Result<Outcome, Failure>, Abort> {
        let app_id = match self.app_id() {
            Ok(app_id) => app_id,
            Err(failure) => return Ok(Err(failure)),
        };
        let context = self.context.clone();
        let in_flight = context.leadership.begin_create();
        let result = app_id.register(&self.caller(), self.world.provisional.as_str(), self.world.desired.kind).await;
        if let Ok(application) = &result
            && !context.leadership.holds()
        {
            self.give_back(&app_id, &application.client_id).await;
            return Err(Abort::LostLease);
        }
        drop(in_flight);
        Ok(result.map(Outcome::Application))
    }

    /// We no longer lead, but hold the answer to a registration: where nobody else can find it any more, it is removed again.
    pub(super) async fn give_back(&self, app_id: &AppId, id: &ClientId) {
        let current = self.api().get_opt(&self.subject.name).await;
        let object = match current {
            Ok(object) => object.filter(|object| object.uid().as_deref() == Some(self.subject.uid.as_str())),
            Err(error) => {
                tracing::warn!(object = %self.subject.path(), client_id = %id, %error, "lost the lease with a registration in hand; it is left to the successor");
                return;
            }
        };
        let recorded = object.as_ref().and_then(|object| object.status.as_ref()).and_then(|status| status.client_id.clone());
        let belongs_to_nobody = object.is_none() || recorded.is_some_and(|recorded| recorded != id.as_str());
        if !belongs_to_nobody {
            tracing::info!(object = %self.subject.path(), client_id = %id, "lost the lease with a registration in hand; the successor will find it");
            return;
        }
        let unfenced = Caller { fence: None, ..self.caller() };
        match app_id.deregister(&unfenced, id).await {
            Ok(_) => tracing::info!(object = %self.subject.path(), client_id = %id, "removed a registration that came too late"),
            Err(failure) => {
                tracing::error!(object = %self.subject.path(), client_id = %id, %failure, "a registration that came too late could not be removed")
            }
        }
    }

    pub(super) async fn ask_service(&self, step: &Step) -> Result<Outcome, Failure> {
        let (app_id, caller) = (self.app_id()?, self.caller());
        let held = || {
            self.world.recorded.client_id.clone().ok_or_else(|| {
                Failure::new("working on the application", Class::Unexpected, Reason::InProgress, "no application is recorded")
            })
        };
        Ok(match step {
            Step::ReadCatalogue => Outcome::Catalogue(app_id.catalogue(&caller).await?),
            Step::SeeThatItAnswers => {
                app_id.see_that_it_answers(&caller).await?;
                Outcome::Done
            }
            Step::FindNamesakes => Outcome::Namesakes(app_id.find(&caller, self.world.provisional.as_str()).await?),
            Step::Look(id) => app_id.look(&caller, id).await?.map_or(Outcome::NotFound, Outcome::Application),
            Step::ConfirmAbsence(id) => Outcome::Listed(app_id.is_listed(&caller, id).await?),
            Step::RemoveSurplus(id) | Step::Deregister(id) => {
                if app_id.deregister(&caller, id).await? {
                    Outcome::Done
                } else {
                    Outcome::NotFound
                }
            }
            Step::ReadScopes => Outcome::Names(app_id.scopes(&caller, &held()?).await?),
            Step::SetScopes(scopes) => {
                app_id.set_scopes(&caller, &held()?, scopes).await?;
                Outcome::Names(scopes.clone())
            }
            Step::ReadRoles => Outcome::Roles(app_id.roles(&caller, &held()?).await?),
            Step::SetRoles(roles) => {
                app_id.set_roles(&caller, &held()?, roles).await?;
                Outcome::Roles(roles.clone())
            }
            Step::ReadRedirectUris => Outcome::Names(app_id.redirect_uris(&caller).await?),
            Step::Rename(name) => {
                app_id.rename(&caller, &held()?, name).await?;
                Outcome::Renamed
            }
            Step::Try => {
                self.try_credential(&app_id, &caller).await?;
                Outcome::Done
            }
            local => unreachable!("{local:?} is not asked of the service"),
        })
    }

    /// Merges this object's redirect URIs. An entry that another live object lists by now stays in the list: then there is an heir whom the
    /// next pass finds.
    pub(super) async fn merge_redirect_uris(
        &self,
        add: &BTreeSet<String>,
        remove: &BTreeSet<String>,
    ) -> Result<Result<Outcome, Failure>, Abort> {
        let app_id = match self.app_id() {
            Ok(app_id) => app_id,
            Err(failure) => return Ok(Err(failure)),
        };
        let (context, uid) = (self.context.clone(), self.subject.uid.clone());
        let tenant = self.world.recorded.tenant.as_ref().map(ToString::to_string).unwrap_or_default();
        let is_wanted = move |uri: &str| !context.claims.heirs(&tenant, std::iter::once(&uri.to_owned()), &uid).is_empty();
        match app_id.merge_redirect_uris(&self.caller(), add.clone(), remove.clone(), is_wanted).await {
            Ok(merged) if !merged.list.is_disjoint(remove) => Err(Abort::Stale),
            Ok(merged) => Ok(Ok(Outcome::Merged { list: merged.list, already: merged.already, absent: merged.absent })),
            Err(failure) => Ok(Err(failure)),
        }
    }

    pub(super) async fn try_credential(&self, app_id: &AppId, caller: &Caller) -> Result<(), Failure> {
        let Sight::Present(Application { client_id, secret: Some(secret), .. }) = &self.world.remote.sight else {
            return Err(Failure::new(
                "trying the published credential",
                Class::Transient,
                Reason::InProgress,
                "the credential was not seen in this pass",
            ));
        };
        app_id.try_credential(caller, client_id, secret).await
    }
}
