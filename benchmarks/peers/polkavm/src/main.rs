// SPDX-License-Identifier: MIT
//! The reference implementation of PolkaVM, doing what our benchmarks do. Prints one JSON object.
//!
//!     polkavm-peer compile BLOB [key=value...]
//!     polkavm-peer doom BLOB WAD [key=value...]
//!     polkavm-peer calls BLOB EXPORT [key=value...]
//!     polkavm-peer fresh BLOB EXPORT [key=value...]
//!
//! Keys: backend=recompiler|interpreter, sandbox=linux|generic, gas=none|sync|async, page=BYTES, count=N, warm=N,
//! ticks=N, hash=TICK (may be repeated), workers=N, pin=yes|no.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use polkavm::{
    ArcBytes, BackendKind, CallError, Caller, Config, CorePinning, Engine, GasMeteringKind, Instance, Linker, Module,
    ModuleConfig, ProgramBlob, SandboxKind,
};
use sha2::{Digest, Sha256};

type Fallible<T> = Result<T, Box<dyn Error>>;

/// Never runs out: a tick of DOOM costs millions.
const GAS: i64 = i64::MAX / 2;

struct Options {
    backend: BackendKind,
    sandbox: SandboxKind,
    gas: Option<GasMeteringKind>,
    page_size: u32,
    count: usize,
    warm: usize,
    ticks: usize,
    hashes: Vec<usize>,
    workers: usize,
    pin: bool,
}

impl Options {
    fn parse(words: &[String]) -> Fallible<Options> {
        let mut options = Options {
            backend: BackendKind::Compiler,
            sandbox: SandboxKind::Linux,
            gas: None,
            page_size: 0x1000,
            count: 1,
            warm: 0,
            ticks: 0,
            hashes: Vec::new(),
            workers: 2,
            pin: true,
        };
        for word in words {
            let (key, value) = word.split_once('=').ok_or_else(|| format!("not key=value: {word}"))?;
            match (key, value) {
                ("backend", "recompiler") => options.backend = BackendKind::Compiler,
                ("backend", "interpreter") => options.backend = BackendKind::Interpreter,
                ("sandbox", "linux") => options.sandbox = SandboxKind::Linux,
                ("sandbox", "generic") => options.sandbox = SandboxKind::Generic,
                ("gas", "none") => options.gas = None,
                ("gas", "sync") => options.gas = Some(GasMeteringKind::Sync),
                ("gas", "async") => options.gas = Some(GasMeteringKind::Async),
                ("page", _) => options.page_size = value.parse()?,
                ("count", _) => options.count = value.parse()?,
                ("warm", _) => options.warm = value.parse()?,
                ("ticks", _) => options.ticks = value.parse()?,
                ("hash", _) => options.hashes.push(value.parse()?),
                ("workers", _) => options.workers = value.parse()?,
                ("pin", "yes") => options.pin = true,
                ("pin", "no") => options.pin = false,
                _ => return Err(format!("unknown option: {word}").into()),
            }
        }
        Ok(options)
    }

    fn engine(&self) -> Fallible<Engine> {
        let mut config = Config::new();
        config.set_backend(Some(self.backend));
        if self.backend == BackendKind::Compiler {
            config.set_sandbox(Some(self.sandbox));
            config.set_allow_experimental(self.sandbox == SandboxKind::Generic);
        }
        config.set_worker_count(self.workers);
        if !self.pin {
            config.set_core_pinning(CorePinning::Disabled);
        }
        Ok(Engine::new(&config)?)
    }

    fn module_config(&self) -> ModuleConfig {
        let mut config = ModuleConfig::new();
        config.set_page_size(self.page_size);
        config.set_gas_metering(self.gas);
        config
    }
}

fn load(path: &str) -> Fallible<ArcBytes> {
    Ok(ArcBytes::from(
        fs::read(path).map_err(|error| format!("{path}: {error}"))?,
    ))
}

fn native_size(module: &Module) -> usize {
    module.machine_code().map_or(0, <[u8]>::len)
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let started = Instant::now();
    let value = work();
    (value, started.elapsed())
}

fn list(samples: &[Duration]) -> String {
    let mut text = String::from("[");
    for (i, sample) in samples.iter().enumerate() {
        let separator = if i == 0 { "" } else { ", " };
        write!(text, "{separator}{:.9}", sample.as_secs_f64()).expect("a String takes all");
    }
    text + "]"
}

/// Nanoseconds on a processor and waiting for one, as /proc tells them (man 5 proc, schedstat); zeros without a process.
fn schedule(pid: Option<u32>) -> [u64; 2] {
    let text = pid
        .and_then(|pid| fs::read_to_string(format!("/proc/{pid}/schedstat")).ok())
        .unwrap_or_default();
    let mut words = text.split_whitespace().map(|word| word.parse().unwrap_or(0));
    [words.next().unwrap_or(0), words.next().unwrap_or(0)]
}

/// How often it went to sleep by itself (man 5 proc, status: voluntary_ctxt_switches).
fn sleeps(pid: Option<u32>) -> u64 {
    let text = pid
        .and_then(|pid| fs::read_to_string(format!("/proc/{pid}/status")).ok())
        .unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

fn describe<E: std::fmt::Debug>(error: CallError<E>) -> Box<dyn Error> {
    format!("the guest stopped: {error:?}").into()
}

fn compile(blob: &str, options: &Options) -> Fallible<String> {
    let bytes = load(blob)?;
    let engine = options.engine()?;
    let config = options.module_config();
    let mut parse = Vec::new();
    let mut recompile = Vec::new();
    let mut size = 0;
    for round in 0..options.warm + options.count {
        let (program, parsing) = timed(|| ProgramBlob::parse(bytes.clone()));
        let program = program.map_err(|error| format!("{blob}: {error:?}"))?;
        let (module, compiling) = timed(|| Module::from_blob(&engine, &config, program));
        size = native_size(&module?);
        if round >= options.warm {
            parse.push(parsing);
            recompile.push(compiling);
        }
    }
    Ok(format!(
        "{{\"parse\": {}, \"recompile\": {}, \"native_size\": {size}}}",
        list(&parse),
        list(&recompile)
    ))
}

#[derive(Default)]
struct Host {
    wad: Vec<u8>,
    frame: Vec<u8>,
    failure: Option<String>,
}

impl Host {
    fn note<T, E: std::fmt::Display>(&mut self, result: Result<T, E>) {
        if let Err(error) = result {
            self.failure = Some(error.to_string());
        }
    }
}

fn doom_linker() -> Fallible<Linker<Host>> {
    let mut linker: Linker<Host> = Linker::new();
    linker.define_typed(
        "ext_output_video",
        |caller: Caller<Host>, address: u32, width: u32, height: u32| {
            let host = caller.user_data;
            host.frame.resize(4 * width as usize * height as usize, 0);
            let read = caller
                .instance
                .read_memory_into(address, &mut host.frame[..])
                .map(|_| ());
            host.note(read);
        },
    )?;
    linker.define_typed(
        "ext_output_audio",
        |_caller: Caller<Host>, _address: u32, _samples: u32| {},
    )?;
    linker.define_typed("ext_rom_size", |caller: Caller<Host>| -> u32 {
        caller.user_data.wad.len() as u32
    })?;
    linker.define_typed(
        "ext_rom_read",
        |caller: Caller<Host>, pointer: u32, offset: u32, length: u32| {
            let host = caller.user_data;
            let range = offset as usize..offset as usize + length as usize;
            let written = match host.wad.get(range) {
                Some(data) => caller
                    .instance
                    .write_memory(pointer, data)
                    .map_err(|error| error.to_string()),
                None => Err("read past the end of the WAD".to_string()),
            };
            host.note(written);
        },
    )?;
    linker.define_typed(
        "ext_stdout",
        |_caller: Caller<Host>, _buffer: u32, length: u32| -> i32 { length as i32 },
    )?;
    Ok(linker)
}

fn doom(blob: &str, wad: &str, options: &Options) -> Fallible<String> {
    let mut host = Host {
        wad: fs::read(wad).map_err(|error| format!("{wad}: {error}"))?,
        ..Host::default()
    };
    let bytes = load(blob)?;
    let engine = options.engine()?;
    let module = Module::new(&engine, &options.module_config(), bytes)?;
    let mut instance = doom_linker()?.instantiate_pre(&module)?.instantiate()?;
    if options.gas.is_some() {
        instance.set_gas(GAS);
    }
    let (result, initialize) = timed(|| instance.call_typed(&mut host, "ext_initialize", ()));
    result.map_err(describe)?;

    let guest = instance.pid();
    let this = Some(std::process::id());
    let before = (schedule(guest), schedule(this), sleeps(guest), sleeps(this));
    let mut frames = String::new();
    let mut run = Duration::ZERO;
    for tick in 0..options.ticks {
        let (result, elapsed) = timed(|| instance.call_typed(&mut host, "ext_tick", ()));
        result.map_err(describe)?;
        run += elapsed;
        if options.hashes.contains(&tick) {
            let separator = if frames.is_empty() { "" } else { ", " };
            write!(frames, "{separator}\"{tick}\": \"{:x}\"", Sha256::digest(&host.frame))?;
        }
    }
    let after = (schedule(guest), schedule(this), sleeps(guest), sleeps(this));
    if let Some(failure) = host.failure {
        return Err(failure.into());
    }
    let seconds = |nanoseconds: u64| nanoseconds as f64 / 1e9;
    Ok(format!(
        "{{\"initialize\": {:.9}, \"run\": {:.9}, \"guest_cpu\": {:.9}, \"guest_delay\": {:.9}, \"host_cpu\": {:.9}, \
         \"guest_sleeps\": {}, \"host_sleeps\": {}, \"native_size\": {}, \"frames\": {{{frames}}}}}",
        initialize.as_secs_f64(),
        run.as_secs_f64(),
        seconds(after.0[0] - before.0[0]),
        seconds(after.0[1] - before.0[1]),
        seconds(after.1[0] - before.1[0]),
        after.2 - before.2,
        after.3 - before.3,
        native_size(&module),
    ))
}

/// The one import of the programs called here.
fn calls_linker() -> Fallible<Linker> {
    let mut linker: Linker = Linker::new();
    linker.define_typed("get_third_number", || -> u32 { 100 })?;
    Ok(linker)
}

fn call(instance: &mut Instance, export: &str) -> Fallible<()> {
    let result = instance
        .call_typed_and_get_result::<u32, (u32, u32)>(&mut (), export, (1, 10))
        .map_err(describe)?;
    if result == 0 {
        return Err("the guest computed nothing".into());
    }
    Ok(())
}

/// One sample: the mean of `count` calls in a row.
fn calls(blob: &str, export: &str, options: &Options) -> Fallible<String> {
    let engine = options.engine()?;
    let module = Module::new(&engine, &options.module_config(), load(blob)?)?;
    let mut instance = calls_linker()?.instantiate_pre(&module)?.instantiate()?;
    if options.gas.is_some() {
        instance.set_gas(GAS);
    }
    for _ in 0..options.warm {
        call(&mut instance, export)?;
    }
    let (result, elapsed) = timed(|| (0..options.count).try_for_each(|_| call(&mut instance, export)));
    result?;
    Ok(format!(
        "{{\"call\": {:.9}}}",
        elapsed.as_secs_f64() / options.count as f64
    ))
}

/// A new instance, one call, and away with it, every time.
fn fresh(blob: &str, export: &str, options: &Options) -> Fallible<String> {
    let engine = options.engine()?;
    let module = Module::new(&engine, &options.module_config(), load(blob)?)?;
    let prepared = calls_linker()?.instantiate_pre(&module)?;
    let once = || -> Fallible<()> { call(&mut prepared.instantiate()?, export) };
    for _ in 0..options.warm {
        once()?;
    }
    let mut samples = Vec::new();
    for _ in 0..options.count {
        let (result, elapsed) = timed(once);
        result?;
        samples.push(elapsed);
    }
    Ok(format!("{{\"fresh\": {}}}", list(&samples)))
}

fn run(arguments: &[String]) -> Fallible<String> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["compile", blob, ..] => compile(blob, &Options::parse(&arguments[2..])?),
        ["doom", blob, wad, ..] => doom(blob, wad, &Options::parse(&arguments[3..])?),
        ["calls", blob, export, ..] => calls(blob, export, &Options::parse(&arguments[3..])?),
        ["fresh", blob, export, ..] => fresh(blob, export, &Options::parse(&arguments[3..])?),
        _ => Err("usage: polkavm-peer compile|doom|calls|fresh BLOB ... (see src/main.rs)".into()),
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(json) => {
            println!("{json}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("polkavm-peer: {error}");
            ExitCode::FAILURE
        }
    }
}
