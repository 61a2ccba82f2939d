//! A priority level at work: its seats, its queues, and who comes next.
//!
//! Queues are served fairly by the work they have been given: each has a clock that runs ahead by what it was served, and
//! the queue whose next request would begin earliest by its clock is served. A queue that was empty starts from
//! the common clock, so that nobody saves up.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::shuffle;

/// What a request is taken to last before it is known.
const GUESS: f64 = 0.003;
/// How much of the old is left of the smoothed need after one period.
const SMOOTHING: f64 = 0.977;

/// How a level queues: queues, hand, and how many may wait in one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queuing {
    /// Queues.
    pub queues: usize,
    /// How many of them a flow may use.
    pub hand: usize,
    /// How many requests may wait in one.
    pub length: usize,
}

/// What a request takes of a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Seats while it is served.
    pub seats: u64,
    /// Seats for a while afterwards.
    pub after: u64,
    /// For how long.
    pub lasting: Duration,
}

impl Cost {
    fn width(&self) -> u64 {
        self.seats.max(self.after)
    }

    fn work(&self, seconds: f64) -> f64 {
        self.seats as f64 * seconds + self.after as f64 * self.lasting.as_secs_f64()
    }
}

/// Why a request is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// There is no seat, and nobody waits at this level.
    ConcurrencyLimit,
    /// The queue is full.
    QueueFull,
    /// It waited too long.
    TimeOut,
}

impl Refused {
    /// As metrics name it.
    pub fn reason(self) -> &'static str {
        match self {
            Refused::ConcurrencyLimit => "concurrency-limit",
            Refused::QueueFull => "queue-full",
            Refused::TimeOut => "time-out",
        }
    }
}

struct Waiting {
    number: u64,
    cost: Cost,
    go: oneshot::Sender<()>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Requests of it that are being served.
    serving: u64,
    seats: u64,
    /// When its next request begins, by its own clock.
    clock: f64,
}

impl Queue {
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.serving == 0
    }

    fn load(&self) -> u64 {
        self.seats + self.waiting.iter().map(|w| w.cost.width()).sum::<u64>()
    }
}

/// How many seats could be used, over time.
struct Demand {
    now: u64,
    peak: u64,
    since: Instant,
    changed: Instant,
    sum: f64,
    squares: f64,
    smoothed: f64,
}

impl Demand {
    fn new(now: Instant) -> Self {
        Demand {
            now: 0,
            peak: 0,
            since: now,
            changed: now,
            sum: 0.0,
            squares: 0.0,
            smoothed: 0.0,
        }
    }

    fn set(&mut self, seats: u64, now: Instant) {
        self.advance(now);
        self.now = seats;
        self.peak = self.peak.max(seats);
    }

    fn advance(&mut self, now: Instant) {
        let passed = now.duration_since(self.changed).as_secs_f64();
        let seats = self.now as f64;
        self.sum += seats * passed;
        self.squares += seats * seats * passed;
        self.changed = now;
    }

    /// Ends a period; answers its peak and the smoothed need.
    fn end(&mut self, now: Instant) -> (u64, f64) {
        self.advance(now);
        let passed = now.duration_since(self.since).as_secs_f64();
        if passed > 0.0 {
            let average = self.sum / passed;
            let variance = (self.squares / passed - average * average).max(0.0);
            let envelope = average + variance.sqrt();
            let eased = SMOOTHING * self.smoothed + (1.0 - SMOOTHING) * envelope;
            self.smoothed = envelope.max(eased);
        }
        let peak = self.peak;
        self.since = now;
        self.peak = self.now;
        self.sum = 0.0;
        self.squares = 0.0;
        (peak, self.smoothed)
    }
}

struct State {
    /// Seats at the moment; none means that there is no limit.
    limit: Option<u64>,
    queuing: Option<Queuing>,
    queues: Vec<Queue>,
    /// Queues that aren't idle.
    active: usize,
    seats: u64,
    serving: u64,
    waiting: u64,
    waiting_seats: u64,
    /// The common clock, and when it was set.
    clock: f64,
    ticked: Instant,
    numbers: u64,
    demand: Demand,
    /// Where the search for the next queue begins, so that ties take turns.
    turn: usize,
}

/// A priority level. It outlives its configuration for as long as requests hold seats of it.
pub struct Level {
    state: Mutex<State>,
}

/// What a level is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Snapshot {
    /// Seats it has at the moment.
    pub limit: u64,
    /// Seats in use.
    pub seats: u64,
    /// Requests being served.
    pub serving: u64,
    /// Requests waiting.
    pub waiting: u64,
    /// Seats that those want.
    pub waiting_seats: u64,
    /// The most seats that could be used in this period so far.
    pub peak: u64,
    /// The smoothed need.
    pub smoothed: f64,
}

/// Seats that a request holds; they are given back when this is dropped.
pub struct Seats {
    level: Arc<Level>,
    queue: Option<usize>,
    cost: Cost,
    begun: Instant,
    /// How long it waited.
    pub waited: Option<Duration>,
}

enum Admission {
    Go(Option<usize>),
    Wait(usize, u64, oneshot::Receiver<()>),
}

impl Level {
    /// A level with so many seats; without a number it has no limit.
    pub fn new(limit: Option<u64>) -> Self {
        let now = Instant::now();
        Level {
            state: Mutex::new(State {
                limit,
                queuing: None,
                queues: Vec::new(),
                active: 0,
                seats: 0,
                serving: 0,
                waiting: 0,
                waiting_seats: 0,
                clock: 0.0,
                ticked: now,
                numbers: 0,
                demand: Demand::new(now),
                turn: 0,
            }),
        }
    }

    /// Sets how it queues.
    pub fn configure(&self, queuing: Option<Queuing>) {
        let mut state = self.state.lock();
        let wanted = queuing.map_or(0, |q| q.queues);
        while state.queues.len() > wanted && state.queues.last().is_some_and(Queue::is_idle) {
            state.queues.pop();
        }
        // Queues that are too many but not yet idle are left alone, and get no more requests.
        while state.queues.len() < wanted {
            state.queues.push(Queue::default());
        }
        state.queuing = queuing;
        state.dispatch(Instant::now());
    }

    /// Sets how many seats there are.
    pub fn limit(&self, seats: u64) {
        let mut state = self.state.lock();
        let now = Instant::now();
        state.tick(now);
        state.limit = Some(seats);
        state.dispatch(now);
    }

    /// Gets a request its seats, now or when its turn comes, if that is before `patience` is over.
    pub async fn admit(
        self: &Arc<Self>,
        cost: Cost,
        flow: u64,
        patience: Duration,
    ) -> Result<Seats, Refused> {
        let asked = self.state.lock().ask(cost, flow, Instant::now())?;
        match asked {
            Admission::Go(queue) => Ok(self.seats(queue, cost, None)),
            Admission::Wait(queue, number, go) => {
                self.wait(queue, number, go, cost, patience).await
            }
        }
    }

    async fn wait(
        self: &Arc<Self>,
        queue: usize,
        number: u64,
        go: oneshot::Receiver<()>,
        cost: Cost,
        patience: Duration,
    ) -> Result<Seats, Refused> {
        let mut place = Place {
            level: self,
            queue,
            number,
            cost,
            kept: true,
        };
        let begun = Instant::now();
        match tokio::time::timeout(patience, go).await {
            Ok(Ok(())) => {
                place.kept = false;
                Ok(self.seats(Some(queue), cost, Some(begun.elapsed())))
            }
            // Leaving the queue is what dropping the place does; the level itself never lets go of a request.
            Ok(Err(_)) | Err(_) => Err(Refused::TimeOut),
        }
    }

    fn seats(
        self: &Arc<Self>,
        queue: Option<usize>,
        cost: Cost,
        waited: Option<Duration>,
    ) -> Seats {
        Seats {
            level: self.clone(),
            queue,
            cost,
            begun: Instant::now(),
            waited,
        }
    }

    /// Ends a period of need: the peak, and the smoothed need.
    pub fn end_period(&self) -> (u64, f64) {
        self.state.lock().demand.end(Instant::now())
    }

    /// What it is doing.
    pub fn snapshot(&self) -> Snapshot {
        let state = self.state.lock();
        Snapshot {
            limit: state.limit.unwrap_or_default(),
            seats: state.seats,
            serving: state.serving,
            waiting: state.waiting,
            waiting_seats: state.waiting_seats,
            peak: state.demand.peak,
            smoothed: state.demand.smoothed,
        }
    }

    fn release(&self, queue: Option<usize>, seats: u64, ends: Option<(Cost, Duration)>) {
        let mut state = self.state.lock();
        let now = Instant::now();
        state.tick(now);
        state.seats = state.seats.saturating_sub(seats);
        if ends.is_some() {
            state.serving = state.serving.saturating_sub(1);
        }
        if let Some(at) = queue.filter(|at| *at < state.queues.len()) {
            let queue = &mut state.queues[at];
            queue.seats = queue.seats.saturating_sub(seats);
            if let Some((cost, took)) = ends {
                queue.serving = queue.serving.saturating_sub(1);
                // What it really took, and not what it was taken to.
                queue.clock += cost.work(took.as_secs_f64()) - cost.work(GUESS);
                state.may_rest(at);
            }
        }
        state.need(now);
        state.dispatch(now);
    }
}

impl State {
    fn fits(&self, seats: u64) -> bool {
        match self.limit {
            None => true,
            // What is wider than the level gets it for itself.
            Some(limit) if seats > limit => self.seats == 0,
            Some(limit) => self.seats + seats <= limit,
        }
    }

    /// Moves the common clock on: the more want something, the slower it goes.
    fn tick(&mut self, now: Instant) {
        let passed = now.duration_since(self.ticked).as_secs_f64();
        self.ticked = now;
        let Some(limit) = self.limit else { return };
        let wanted = (self.seats + self.waiting_seats).min(limit);
        self.clock += passed * wanted as f64 / self.active.max(1) as f64;
    }

    fn need(&mut self, now: Instant) {
        let seats = self.seats + self.waiting_seats;
        self.demand.set(seats, now);
    }

    fn ask(&mut self, cost: Cost, flow: u64, now: Instant) -> Result<Admission, Refused> {
        let width = cost.width();
        let Some(queuing) = self.queuing.filter(|_| self.limit.is_some()) else {
            if !self.fits(width) {
                return Err(Refused::ConcurrencyLimit);
            }
            self.seats += width;
            self.serving += 1;
            self.need(now);
            return Ok(Admission::Go(None));
        };
        self.tick(now);
        let chosen = shuffle::deal(queuing.queues, queuing.hand, flow)
            .min_by_key(|q| self.queues[*q].load())
            .unwrap_or_default();
        let clock = self.clock;
        let queue = &mut self.queues[chosen];
        let begins = queue.is_idle();
        if begins {
            queue.clock = queue.clock.max(clock);
        }
        if self.waiting == 0 && self.fits(width) {
            self.active += usize::from(begins);
            self.serve(chosen, cost);
            self.need(now);
            return Ok(Admission::Go(Some(chosen)));
        }
        let queue = &mut self.queues[chosen];
        if queue.waiting.len() >= queuing.length {
            return Err(Refused::QueueFull);
        }
        self.active += usize::from(begins);
        self.numbers += 1;
        let (go, gone) = oneshot::channel();
        queue.waiting.push_back(Waiting {
            number: self.numbers,
            cost,
            go,
        });
        self.waiting += 1;
        self.waiting_seats += width;
        let number = self.numbers;
        self.need(now);
        self.dispatch(now);
        Ok(Admission::Wait(chosen, number, gone))
    }

    fn serve(&mut self, at: usize, cost: Cost) {
        let width = cost.width();
        self.seats += width;
        self.serving += 1;
        let queue = &mut self.queues[at];
        queue.seats += width;
        queue.serving += 1;
        queue.clock += cost.work(GUESS);
    }

    /// Notes it if a queue that was active has become idle.
    fn may_rest(&mut self, at: usize) {
        if self.queues[at].is_idle() {
            self.active = self.active.saturating_sub(1);
        }
    }

    /// The queue whose oldest request would be done first.
    fn next(&mut self) -> Option<usize> {
        let count = self.queues.len();
        let mut best: Option<(f64, usize)> = None;
        for i in 0..count {
            let at = (self.turn + i) % count;
            let queue = &self.queues[at];
            let Some(oldest) = queue.waiting.front() else {
                continue;
            };
            let done = queue.clock + oldest.cost.work(GUESS);
            if best.is_none_or(|(first, _)| done < first) {
                best = Some((done, at));
            }
        }
        let (_, at) = best?;
        self.turn = (at + 1) % count;
        Some(at)
    }

    fn dispatch(&mut self, now: Instant) {
        while self.waiting > 0 {
            let turn = self.turn;
            let Some(at) = self.next() else { return };
            let fits = self.queues[at]
                .waiting
                .front()
                .is_some_and(|oldest| self.fits(oldest.cost.width()));
            if !fits {
                // Nobody overtakes it: who needs many seats would never get them.
                self.turn = turn;
                return;
            }
            let Some(oldest) = self.queues[at].waiting.pop_front() else {
                return;
            };
            self.waiting -= 1;
            self.waiting_seats -= oldest.cost.width();
            if oldest.go.send(()).is_ok() {
                self.serve(at, oldest.cost);
            } else {
                self.may_rest(at);
            }
            self.need(now);
        }
    }
}

/// A place in a queue, which is left when the request goes away.
struct Place<'l> {
    level: &'l Arc<Level>,
    queue: usize,
    number: u64,
    cost: Cost,
    kept: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.kept {
            return;
        }
        let left = {
            let mut state = self.level.state.lock();
            let now = Instant::now();
            state.tick(now);
            let queue = &mut state.queues[self.queue].waiting;
            let at = queue.iter().position(|w| w.number == self.number);
            if let Some(at) = at {
                queue.remove(at);
                state.waiting -= 1;
                state.waiting_seats -= self.cost.width();
                state.may_rest(self.queue);
                state.need(now);
                state.dispatch(now);
            }
            at.is_some()
        };
        if !left {
            // Its turn had come just then.
            let ends = Some((self.cost, Duration::ZERO));
            self.level
                .release(Some(self.queue), self.cost.width(), ends);
        }
    }
}

impl Seats {
    /// How many they are.
    pub fn width(&self) -> u64 {
        self.cost.width()
    }

    /// For how long they have been held.
    pub fn held(&self) -> Duration {
        self.begun.elapsed()
    }
}

impl Drop for Seats {
    fn drop(&mut self) {
        let cost = self.cost;
        let ends = Some((cost, self.begun.elapsed()));
        let width = cost.width();
        if cost.after == 0 || cost.lasting.is_zero() {
            self.level.release(self.queue, width, ends);
            return;
        }
        // What follows from a change goes on for a while after it was answered.
        self.level.release(self.queue, width - cost.after, ends);
        let (level, queue) = (self.level.clone(), self.queue);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                runtime.spawn(async move {
                    tokio::time::sleep(cost.lasting).await;
                    level.release(queue, cost.after, None);
                });
            }
            // The server is going down.
            Err(_) => level.release(queue, cost.after, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Cost = Cost {
        seats: 1,
        after: 0,
        lasting: Duration::ZERO,
    };
    const LONG: Duration = Duration::from_secs(60);

    fn queued(limit: u64, queues: usize, length: usize) -> Arc<Level> {
        let level = Arc::new(Level::new(Some(limit)));
        level.configure(Some(Queuing {
            queues,
            hand: 1,
            length,
        }));
        level
    }

    #[tokio::test]
    async fn without_queues_what_does_not_fit_is_turned_away() {
        let level = Arc::new(Level::new(Some(1)));
        let first = level.admit(ONE, 0, LONG).await.unwrap();
        assert_eq!(
            level.admit(ONE, 0, LONG).await.err(),
            Some(Refused::ConcurrencyLimit)
        );
        drop(first);
        assert!(level.admit(ONE, 0, LONG).await.is_ok());
        assert_eq!(level.snapshot().seats, 0);
        let free = Arc::new(Level::new(None));
        let held = futures::future::join_all((0..1000).map(|_| free.admit(ONE, 0, LONG))).await;
        assert!(held.iter().all(Result::is_ok));
    }

    #[tokio::test]
    async fn waiting_ends_with_a_seat_or_with_patience() {
        let level = queued(1, 1, 1);
        let first = level.admit(ONE, 0, LONG).await.unwrap();
        assert_eq!(
            level.admit(ONE, 0, Duration::from_millis(30)).await.err(),
            Some(Refused::TimeOut)
        );
        let waits = tokio::spawn({
            let level = level.clone();
            async move { level.admit(ONE, 0, LONG).await.map(|s| s.waited.is_some()) }
        });
        tokio::task::yield_now().await;
        assert_eq!(
            level.admit(ONE, 0, LONG).await.err(),
            Some(Refused::QueueFull)
        );
        drop(first);
        assert_eq!(waits.await.unwrap(), Ok(true));
        assert_eq!(level.snapshot().seats, 0);
        assert_eq!(level.snapshot().waiting, 0);
    }

    #[tokio::test]
    async fn who_goes_away_leaves_the_queue() {
        let level = queued(1, 1, 10);
        let first = level.admit(ONE, 0, LONG).await.unwrap();
        let waits = tokio::spawn({
            let level = level.clone();
            async move { level.admit(ONE, 0, LONG).await.map(drop) }
        });
        tokio::task::yield_now().await;
        assert_eq!(level.snapshot().waiting, 1);
        waits.abort();
        let _ = waits.await;
        assert_eq!(level.snapshot().waiting, 0);
        drop(first);
        assert_eq!(level.snapshot().seats, 0);
    }

    #[tokio::test]
    async fn a_flow_that_floods_leaves_the_others_their_part() {
        let level = queued(1, 2, 100);
        let flow = |queue: usize| {
            (0..100)
                .find(|h| shuffle::deal(2, 1, *h).next() == Some(queue))
                .unwrap()
        };
        let (loud, quiet) = (flow(0), flow(1));
        let order = Arc::new(Mutex::new(Vec::new()));
        let ask = |name: &'static str, flow: u64| {
            let (level, order) = (level.clone(), order.clone());
            tokio::spawn(async move {
                let seats = level.admit(ONE, flow, LONG).await.map_err(|_| "refused");
                order.lock().push(name);
                tokio::time::sleep(Duration::from_millis(10)).await;
                seats.map(drop)
            })
        };
        let mut all: Vec<_> = (0..20).map(|_| ask("loud", loud)).collect();
        tokio::time::sleep(Duration::from_millis(1)).await;
        all.extend((0..3).map(|_| ask("quiet", quiet)));
        for done in all {
            assert!(done.await.unwrap().is_ok());
        }
        let order = order.lock();
        let last = order.iter().rposition(|n| *n == "quiet").unwrap();
        assert!(last <= 7, "{order:?}");
    }

    #[tokio::test]
    async fn wide_requests_get_their_seats_and_hold_some_longer() {
        let level = queued(4, 1, 100);
        let wide = Cost {
            seats: 1,
            after: 3,
            lasting: Duration::from_millis(50),
        };
        let held = level.admit(wide, 0, LONG).await.unwrap();
        assert_eq!(level.snapshot().seats, 3);
        drop(held);
        assert_eq!(level.snapshot().seats, 3);
        assert_eq!(level.snapshot().serving, 0);
        tokio::time::sleep(Duration::from_millis(60)).await;
        assert_eq!(level.snapshot().seats, 0);
        // Wider than the level: alone, but served.
        let huge = Cost { seats: 100, ..ONE };
        let first = level.admit(ONE, 0, LONG).await.unwrap();
        let waits = level.admit(huge, 0, LONG);
        let (served, ()) = tokio::join!(waits, async { drop(first) });
        assert!(served.is_ok());
        let (peak, smoothed) = level.end_period();
        assert!(peak >= 100 && smoothed > 0.0);
    }
}
