//! One certificate, from an authority's directory to the chain: the account, the names, the challenges, the key (RFC 8555 section 7).
//! It doesn't know when, nor how often.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Error, Identifier, NewAccount, NewOrder, Order,
    OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use serde::{Deserialize, Serialize};

use super::http::Http;
use super::shelf::Shelf;
use crate::config::Tls;
use crate::tls::pair;

/// How long an authority is asked how far it is, each of the two times: it tells when to come back.
const PATIENCE: RetryPolicy = RetryPolicy::new().timeout(Duration::from_secs(120));

/// What an authority answers that doesn't know an account (RFC 8555 section 6.7).
const UNKNOWN_ACCOUNT: &str = "urn:ietf:params:acme:error:accountDoesNotExist";

/// An account as it is kept.
#[derive(Serialize, Deserialize)]
struct Known {
    /// What the authority was told.
    contact: String,
    credentials: AccountCredentials,
}

/// Fetches a certificate; gives it with its key and those that lead to a root, as PEM.
pub(super) async fn fetch(http: &Http, tls: &Tls, shelf: &Shelf) -> anyhow::Result<String> {
    let fetched = order(http, tls, shelf).await;
    match fetched {
        Err(error) if is_unknown_account(&error) => {
            tracing::warn!("{} doesn't know the account any more: it gets a new one", tls.acme_directory);
            shelf.forget_account()?;
            order(http, tls, shelf).await
        }
        fetched => fetched,
    }
}

fn is_unknown_account(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Error::Api(problem)) if problem.r#type.as_deref() == Some(UNKNOWN_ACCOUNT))
}

async fn order(http: &Http, tls: &Tls, shelf: &Shelf) -> anyhow::Result<String> {
    let account = account(http, tls, shelf).await?;
    let names: Vec<_> = tls.acme_domains.iter().cloned().map(Identifier::Dns).collect();
    let mut order = account.new_order(&NewOrder::new(&names)).await.context("order a certificate")?;
    answer(&mut order, shelf).await?;
    match order.poll_ready(&PATIENCE).await {
        Ok(OrderStatus::Ready) => {}
        Ok(_) | Err(Error::Api(_)) => return Err(refusals(&mut order).await),
        Err(error) => return Err(error).context("wait for the authority to look at the server"),
    }
    let key = order.finalize().await.context("ask for the certificate")?;
    let chain = order.poll_certificate(&PATIENCE).await.context("wait for the certificate")?;
    let usable = pair::together(pair::certificates(chain.as_bytes())?, pair::key(key.as_bytes())?);
    usable.context("the authority's certificate can't be used")?;
    Ok(key + &chain)
}

/// The account at the authority: the one that is kept, or a new one.
async fn account(http: &Http, tls: &Tls, shelf: &Shelf) -> anyhow::Result<Account> {
    let builder = Account::builder_with_http(Box::new(http.clone()));
    let contact: Vec<_> = Some(tls.acme_contact.as_str()).filter(|contact| !contact.is_empty()).into_iter().collect();
    let Some(known) = shelf.account::<Known>()? else {
        let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let (account, credentials) =
            builder.create(&new, tls.acme_directory.clone(), None).await.context("make an account")?;
        shelf.keep_account(&Known { contact: tls.acme_contact.clone(), credentials })?;
        return Ok(account);
    };
    let told = known.contact == tls.acme_contact;
    let account = builder.from_credentials(known.credentials).await.context("ask for the directory")?;
    if !told {
        account.update_contacts(&contact).await.context("tell the authority tls.acme_contact")?;
        let known = shelf.account::<Known>()?.context("the account is gone")?;
        shelf.keep_account(&Known { contact: tls.acme_contact.clone(), ..known })?;
    }
    Ok(account)
}

/// Has the server ready for each look at a name that the authority has yet to take.
async fn answer(order: &mut Order, shelf: &Shelf) -> anyhow::Result<()> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.context("ask what is to be shown")?;
        let name = authorization.identifier().to_string();
        match authorization.status {
            AuthorizationStatus::Pending => {}
            AuthorizationStatus::Valid => continue,
            status => bail!("{name}: its authorization is {status:?} from the beginning"),
        }
        let challenge = authorization.challenge(ChallengeType::TlsAlpn01);
        let mut challenge =
            challenge.with_context(|| format!("{name}: the authority has no challenge of the kind tls-alpn-01"))?;
        let shown = shown(&name, challenge.key_authorization().digest().as_ref())?;
        shelf.keep_challenge(&name, &shown)?;
        challenge.set_ready().await.with_context(|| format!("{name}: have the authority look"))?;
    }
    Ok(())
}

/// What the server shows to an authority that looks at a name: a certificate of its own with a digest in it (RFC 8737 section 3).
fn shown(name: &str, digest: &[u8]) -> anyhow::Result<String> {
    let mut certificate = CertificateParams::new([name.to_owned()])?;
    certificate.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate()?;
    Ok(key.serialize_pem() + &certificate.self_signed(&key)?.pem())
}

/// Why an order became invalid, name by name.
async fn refusals(order: &mut Order) -> anyhow::Error {
    let mut reasons = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let Ok(mut authorization) = authorization else { break };
        if authorization.refresh().await.is_err() {
            break;
        }
        let name = authorization.identifier().to_string();
        let problems = authorization.challenges.iter().filter_map(|challenge| challenge.error.as_ref());
        reasons.extend(problems.map(|problem| match &problem.detail {
            Some(detail) => format!("{name}: {detail}"),
            None => format!("{name}: {problem}"),
        }));
    }
    let reasons = if reasons.is_empty() { "it doesn't say why".to_owned() } else { reasons.join("; ") };
    anyhow!("the authority refuses: {reasons}")
}
