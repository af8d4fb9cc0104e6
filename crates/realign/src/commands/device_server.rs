//! `realign device-server`: this machine's device for other processes.

use std::net::TcpListener;

use serde_json::json;

use super::{Context, print};
use crate::args::DeviceServerArgs;
use crate::error::{Failure, Result};

/// Serves until the process is told to stop.
pub fn run(context: &Context, args: DeviceServerArgs) -> Result<()> {
    if !cfg!(feature = "remote") {
        return Err(
            Failure::usage("this build lends no devices: that comes with the Cargo feature `remote`")
                .hint("cargo run --release --features remote -- device-server"),
        );
    }
    let listener = TcpListener::bind(&args.listen)
        .map_err(|e| Failure::failed(format!("--listen {}: cannot listen: {e}", args.listen)))?;
    let address = listener.local_addr()?;
    if !address.ip().is_loopback() && args.token.is_none() {
        return Err(Failure::usage(format!(
            "--listen {address}: without a token anyone who reaches it may compute here"
        ))
        .hint("set REALIGN_REMOTE_TOKEN, here and for the clients"));
    }
    let text = format!(
        "{} is lent as --device remote:{address}; Ctrl-C ends it",
        context.global.device
    );
    print(
        &context.global,
        &text,
        &json!({"device": context.global.device, "address": address.to_string()}),
    )?;
    serve(context, listener, args.token.as_deref())
}

#[cfg(feature = "remote")]
fn serve(context: &Context, listener: TcpListener, token: Option<&str>) -> Result<()> {
    realign_tensor::lend(&context.device, listener, token)
        .map_err(|e| Failure::failed(format!("--device {}: {e}", context.global.device)))
}

#[cfg(not(feature = "remote"))]
fn serve(_: &Context, _: TcpListener, _: Option<&str>) -> Result<()> {
    unreachable!("refused above")
}
