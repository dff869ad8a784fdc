//! Packet rates and TCP with many flows and many published ports. The flows are made by their first packets: a socket of a container sends
//! to as many addresses outside, one of a client outside to as many published ports.

use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use netd_tests::lab::{Container, Host, Lab, Netd, Offloads};

pub use super::traffic::{BUSY, LEAST, MANY, MILLION, Point, THOUSAND, Traffic};
use super::{
    busy::{Busy, spent},
    connections, contenders,
    cost::{self, COUNTED},
    datagrams::Spread,
    findings::{Area, Findings},
    gauge::{Beats, Pulse},
    load::{Ends, Load, Turn},
    memory::Objects,
    processor::keep_process_on_last,
    profile::{self, Profiles},
    server::{PORT, Server},
    site::{Companions, Contender, Furnished, HOST, OUTSIDE, PUBLISHED, widen_ports},
    targets::missed_at_scale,
    turns::{Turns, whose},
};

/// The first address of the servers outside, one a flow (RFC 6598 gives four million).
const SERVERS: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 0);
/// Where they are routed.
const SERVERS_NET: &str = "100.64.0.0/10";
/// The port that everybody sends from: outside the ephemeral range, so that it stays.
const FROM: u16 = 2000;
/// The first of many published ports, of which every second is one, so that each is an entry.
const FIRST_OF_MANY: u16 = 10_000;
/// How long after a packet of each a flow counts as alive without another one: well under the 30 s that one without an answer has.
const FRESH: Duration = Duration::from_secs(15);
/// With fewer flows than these the bytes of one are not to be told from what else the machine does.
const ENOUGH: u32 = 100_000;

/// Whose, how many of each, in the order of the table.
const POINTS: [(Contender, Point); 12] = [
    (Contender::Netd, LEAST),
    (Contender::Netd, THOUSAND),
    (Contender::Netd, MANY),
    (Contender::Netd, Point { flows: 1, ports: 1_000 }),
    (Contender::Netd, Point { flows: 1, ports: 10_000 }),
    (Contender::Netd, BUSY),
    (Contender::Iptables, LEAST),
    (Contender::Iptables, THOUSAND),
    (Contender::Iptables, MANY),
    (Contender::Iptables, Point { flows: 1, ports: 1_000 }),
    (Contender::Iptables, Point { flows: 1, ports: 10_000 }),
    (Contender::Iptables, BUSY),
];

/// Those of them that are measured where it is to be quick.
const QUICK: [(Contender, Point); 4] =
    [(Contender::Netd, LEAST), (Contender::Netd, BUSY), (Contender::Iptables, LEAST), (Contender::Iptables, MANY)];

/// How it is measured.
pub struct Manner {
    /// At every point, with a million flows too.
    pub whole: bool,
    /// Rounds that count.
    pub rounds: usize,
    /// How long each load is.
    pub time: Duration,
}

/// Measures every point, all alive in the same run and one after the other within a round; TCP in half of the rounds, and not among a
/// million flows, which take longer to be kept alive than all else.
pub fn measured(findings: &mut Findings, turns: &mut Turns, profiled: &mut Profiles, manner: &Manner) -> Result<()> {
    let Manner { whole, rounds, time } = *manner;
    let points = POINTS.into_iter().chain([(Contender::Netd, MILLION)]).filter(|at| whole || QUICK.contains(at));
    let mut grounds = points.map(|(who, point)| Ground::new(who, point, findings)).collect::<Result<Vec<_>>>()?;
    for traffic in Traffic::ALL {
        for round in 0..=rounds {
            for turn in 0..grounds.len() {
                let at = whose(round, turn, grounds.len());
                let ground = &mut grounds[at];
                if !traffic.differs(ground.point) {
                    continue;
                }
                let about = traffic.about(ground.point);
                let name = format!("{} at scale, {about}", ground.who.name());
                // Round zero warms up.
                if round == 0 {
                    turns.take(name, || ground.rate(traffic, time))?;
                } else {
                    let (rate, cpu) = turns.take_steady(ground.who, name, || ground.rate(traffic, time))?;
                    findings.add(Area::Scale, &about, ground.who, "kpps", rate);
                    findings.add(Area::Scale, &format!("{about}; CPU per packet"), ground.who, "µs", cpu);
                }
            }
        }
    }
    let of_tcp = |ground: &&mut Ground| ground.point != MILLION && (whole || ground.point == BUSY);
    connections::measured(findings, turns, grounds.iter_mut().filter(of_tcp).collect(), rounds.div_ceil(2), time)?;
    if profiled.wanted {
        profile_missed(findings, profiled, &mut grounds, time);
    }
    in_programs(findings, turns, &mut grounds)?;
    for ground in &grounds {
        if let Some(share) = ground.share_of_daemon()? {
            findings.add(Area::Scale, &of_daemon(ground.point), ground.who, "%", share);
        }
    }
    Ok(())
}

/// Samples what netd missed, beside what it is compared with.
fn profile_missed(findings: &Findings, profiled: &mut Profiles, grounds: &mut [Ground], time: Duration) {
    let daemons: BTreeSet<_> = grounds.iter().filter_map(|ground| Some(ground.netd.as_ref()?.id_outside())).collect();
    for [missed, base] in missed_at_scale(findings) {
        let names = [base, missed].map(|(traffic, point)| traffic.about(point)).to_vec();
        let of = missed.0.about(missed.1);
        let profile = profile::taken(&of, names, &daemons, |side, recorder| {
            let (traffic, point) = [base, missed][side];
            let ground = grounds.iter_mut().find(|ground| (ground.who, ground.point) == (Contender::Netd, point));
            let ground = ground.context("what was measured has a ground")?;
            ground.refresh(traffic)?;
            // What keeps flows alive is not of what is sampled.
            ground.server(traffic).settled()?;
            let (arrived, ..) = recorder.while_it_runs(|| ground.send(traffic, time))?;
            Ok(arrived as f64)
        });
        profiled.add(&of, profile);
    }
}

/// Adds what of each packet netd's programs take, beside the rounds, since counting takes time itself.
fn in_programs(findings: &mut Findings, turns: &mut Turns, grounds: &mut [Ground]) -> Result<()> {
    let _counting = cost::counting()?;
    for ground in grounds {
        let point = ground.point;
        for traffic in Traffic::ALL.into_iter().filter(|traffic| traffic.differs(point)) {
            let about = traffic.in_programs(point);
            let name = format!("{} at scale, {about}", ground.who.name());
            if let Some(nanoseconds) = turns.take_steady(ground.who, name, || ground.in_programs(traffic, COUNTED))? {
                findings.add(Area::Scale, &about, ground.who, "ns", nanoseconds);
            }
        }
    }
    Ok(())
}

/// A host with so many flows and ports. Fields go in the order they end.
pub struct Ground {
    who: Contender,
    point: Point,
    one_out: Spread,
    all_out: Spread,
    one_in: Spread,
    all_in: Spread,
    /// When each flow out had a packet, and each flow in.
    refreshed: [Option<Instant>; 2],
    at_outside: Arc<Server>,
    in_web: Arc<Server>,
    app: Container,
    outside: Host,
    netd: Option<Netd>,
    /// When the daemon was left alone, and what it had spent until then.
    alone: Option<(Instant, Duration)>,
    _companions: Companions,
    _lab: Lab,
}

impl Ground {
    fn new(who: Contender, point: Point, findings: &mut Findings) -> Result<Self> {
        let lab = Lab::new();
        let (host, outside) = (lab.host(who.name()), lab.host("outside"));
        let [near, far] = [HOST, OUTSIDE].map(|address| format!("{address}/24"));
        lab.wire(Offloads::On).from(&host, "eth0", &near).to(&outside, "eth0", &far);
        host.ip(&format!("route add {SERVERS_NET} via {OUTSIDE}"));
        outside.ip(&format!("route add local {SERVERS_NET} dev lo"));
        if who == Contender::Netd {
            let config = host.path("/etc/netd/netd.toml");
            fs::write(config, format!("[daemon]\nflows-max = {}\n", entries(point)))
                .context("cannot configure netd")?;
        }
        let Furnished { web, app, companions, netd, .. } = match who {
            Contender::Netd => contenders::netd(&host, &[])?,
            _ => contenders::docker_like(&host)?,
        };
        widen_ports(&app)?;
        widen_ports(&outside)?;
        let ports = ports(point.ports);
        if who == Contender::Iptables {
            contenders::publish_like_docker(&host, &ports[1..])?;
        }
        if let Some(netd) = &netd {
            let specs = ports[1..].iter().map(|port| format!("{port}:{PORT}/udp"));
            let words: Vec<_> = ["publish".to_owned(), "web".to_owned()].into_iter().chain(specs).collect();
            if words.len() > 2 {
                netd.run(words).ok();
            }
        }
        let server = |n: u32| SocketAddrV4::new(Ipv4Addr::from_bits(SERVERS.to_bits() + n), PORT);
        let published = |port: &u16| SocketAddrV4::new(HOST, *port);
        let mut ground = Self {
            who,
            point,
            one_out: Spread::over([server(0)]),
            all_out: Spread::over((0..point.flows).map(server)),
            one_in: Spread::over([published(&ports[0])]),
            all_in: Spread::over(ports.iter().map(published)),
            refreshed: [None; 2],
            at_outside: Server::new(&outside)?.into(),
            in_web: Server::new(&web)?.into(),
            app,
            outside,
            netd: None,
            alone: None,
            _companions: companions,
            _lab: lab,
        };
        let before = Objects::now()?;
        ground.app.enter(|| ground.all_out.send_round(FROM))?;
        let taken = Objects::now()?.bytes_a_flow_since(&before, point.flows);
        ground.refresh(Traffic::AllOut)?;
        if let Some(netd) = &netd {
            let flows = netd.json("status")["flows"]["entries"].as_u64().unwrap_or_default() / 2;
            let all = u64::from(point.flows) + u64::from(point.ports);
            ensure!(flows >= all, "only {flows} of {all} flows are alive");
        }
        if point.flows >= ENOUGH {
            findings.add(Area::Memory, FLOW, who, "bytes", taken as f64);
        }
        if let Some(netd) = &netd {
            // There is one on a host, not one for each of nine: none takes the sender's processor.
            keep_process_on_last(netd.id_outside()).context("a daemon cannot be kept on a processor")?;
            ground.alone = Some((Instant::now(), spent(netd.id_outside())?));
        }
        ground.netd = netd;
        Ok(ground)
    }

    /// Whose it is.
    pub const fn who(&self) -> Contender {
        self.who
    }

    /// How many of each it has.
    pub const fn point(&self) -> Point {
        self.point
    }

    /// What a load of TCP gives by a connection of its own, or by many, with all flows alive.
    pub fn run(&mut self, way: Traffic, load: Load, time: Duration) -> Result<Turn> {
        self.refresh(way)?;
        // What keeps flows alive is not of what is measured.
        self.server(way).settled()?;
        let (client, to) = if way.is_inwards() {
            ((*self.outside).clone(), SocketAddrV4::new(HOST, PUBLISHED))
        } else {
            ((*self.app).clone(), SocketAddrV4::new(SERVERS, PORT))
        };
        Ends { client, apart: false, to, server: Arc::clone(self.server(way)) }.run(load, time)
    }

    /// How much of a processor the daemon has taken since it was left alone, in percent.
    fn share_of_daemon(&self) -> Result<Option<f64>> {
        let Some((netd, (since, before))) = self.netd.as_ref().zip(self.alone) else { return Ok(None) };
        let taken = spent(netd.id_outside())?.saturating_sub(before);
        Ok(Some(100.0 * taken.as_secs_f64() / since.elapsed().as_secs_f64()))
    }

    /// A packet for each flow out and each flow in, if the last is some time ago, so that all are alive whatever is sent. Where all have one in
    /// turn it is for each of them at once: on a host as busy as that, the last packet of a flow is as long ago as one to each takes,
    /// and not since another contender's turn began. To a million that takes longer than a turn of everybody's.
    fn refresh(&mut self, traffic: Traffic) -> Result<()> {
        let in_turn = matches!(traffic, Traffic::AllOut | Traffic::AllIn) && self.point != MILLION;
        for inwards in [false, true] {
            let at_once = in_turn && traffic.is_inwards() == inwards;
            let refreshed = &mut self.refreshed[usize::from(inwards)];
            if !at_once && refreshed.is_some_and(|at| at.elapsed() < FRESH) {
                continue;
            }
            let begin = Instant::now();
            if inwards {
                self.outside.enter(|| self.all_in.send_round(FROM))?;
            } else {
                self.app.enter(|| self.all_out.send_round(FROM))?;
            }
            *refreshed = Some(begin);
        }
        Ok(())
    }

    /// Thousands of packets that arrive in a second, and microseconds of the processors for each.
    fn rate(&mut self, traffic: Traffic, time: Duration) -> Result<((f64, f64), Beats)> {
        self.refresh(traffic)?;
        self.server(traffic).settled()?;
        let before = Busy::now()?;
        let (arrived, seconds, beats) = self.send(traffic, time)?;
        let busy = Busy::now()?.since(&before);
        Ok(((arrived as f64 / 1e3 / seconds, busy.as_secs_f64() * 1e6 / arrived as f64), beats))
    }

    /// Nanoseconds that netd's programs take of each packet that arrives, while that is counted.
    fn in_programs(&mut self, traffic: Traffic, time: Duration) -> Result<(Option<f64>, Beats)> {
        self.refresh(traffic)?;
        // What is under way is not of what is counted.
        self.server(traffic).settled()?;
        let Some(before) = self.netd.as_ref().map(cost::spent).transpose()? else {
            return Ok((None, Beats::default()));
        };
        let (arrived, _, beats) = self.send(traffic, time)?;
        let after = self.netd.as_ref().map(cost::spent).transpose()?;
        Ok((after.map(|after| (after - before).as_nanos() as f64 / arrived as f64), beats))
    }

    /// How many packets arrive of those that are sent for `time`, in how many seconds, and what was felt meanwhile.
    fn send(&mut self, traffic: Traffic, time: Duration) -> Result<(u64, f64, Beats)> {
        let mut pulse = Pulse::new();
        let (app, outside, at_outside, in_web) = (&self.app, &self.outside, &self.at_outside, &self.in_web);
        let (arrived, seconds) = match traffic {
            Traffic::OneOut => at_outside.arrived(|| app.enter(|| self.one_out.send(FROM, time, &mut pulse))),
            Traffic::AllOut => at_outside.arrived(|| app.enter(|| self.all_out.send(FROM, time, &mut pulse))),
            Traffic::OneIn => in_web.arrived(|| outside.enter(|| self.one_in.send(FROM, time, &mut pulse))),
            Traffic::AllIn => in_web.arrived(|| outside.enter(|| self.all_in.send(FROM, time, &mut pulse))),
        }?;
        ensure!(arrived > 0, "no datagram arrived");
        let beats = Beats { client: pulse.beats(), receiver: self.server(traffic).beats() };
        Ok((arrived, seconds, beats))
    }

    const fn server(&self, traffic: Traffic) -> &Arc<Server> {
        match traffic {
            Traffic::OneOut | Traffic::AllOut => &self.at_outside,
            Traffic::OneIn | Traffic::AllIn => &self.in_web,
        }
    }
}

/// What a table calls the share of a processor that the daemon takes at a point, whatever is sent.
fn of_daemon(point: Point) -> String {
    format!("the daemon, of a processor: {point}")
}

/// What the memory is called that a flow takes.
pub const FLOW: &str = "a flow";

/// Entries of netd's table: two a flow and as much again, and as many connections as end while all is measured.
fn entries(point: Point) -> u32 {
    (4 * point.flows).max(1 << 19)
}

/// So many, the first of which every contender has published.
fn ports(count: u16) -> Vec<u16> {
    std::iter::once(PUBLISHED).chain((1..count).map(|n| FIRST_OF_MANY + 2 * n)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_published_ports_are_neighbours_and_none_is_of_the_ephemeral_range() {
        let ports = ports(10_000);

        assert_eq!((ports.len(), ports[0]), (10_000, PUBLISHED));
        assert!(ports.windows(2).all(|pair| pair[1] - pair[0] >= 2));
        assert!(ports.iter().all(|port| *port < 32_768));
    }

    #[test]
    fn every_row_that_a_target_names_is_measured() {
        let measured = |point| POINTS.contains(&(Contender::Netd, point)) || point == MILLION;

        assert!([LEAST, BUSY, THOUSAND, MILLION].into_iter().all(measured));
        assert!(QUICK.iter().all(|at| POINTS.contains(at)));
        assert!(Traffic::AllOut.differs(BUSY) && Traffic::AllIn.differs(BUSY) && !Traffic::AllOut.differs(LEAST));
        assert_eq!(Traffic::AllOut.about(BUSY), "masquerade, by each flow in turn: 100,000 flows, 10,000 ports");
    }
}
