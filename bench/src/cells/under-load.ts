import type { Cell, Reading } from '../cell.ts';
import { closedLoop, openPoster } from '../client.ts';
import { type Conversation, openConversation } from '../conversation.ts';
import { cpuMsOf, latencyOf, percentile } from '../measure.ts';
import type { BenchStack, StartFloor } from '../stack.ts';

/** B3, closed: 64 sessions, each posting as soon as its turn has ended. */
export function closedLoopCell(options: {
  stack: BenchStack;
  hops: StartFloor;
  pairs: number;
  seconds: number;
}): Cell {
  const sessions = 64;
  const run = async (base: string, apiKey: string, bare: boolean, pids: () => number[]): Promise<Reading> => {
    const poster = openPoster(base, apiKey, sessions);
    const talks = await openMany(sessions, base, apiKey, poster, bare);
    await options.stack.settle();
    const cpuBefore = cpuMsOf(pids());
    const startedAt = performance.now();
    const endsAt = startedAt + options.seconds * 1000;
    await closedLoop(sessions, async (index) => {
      await talks[index]?.say('hello there');
      return performance.now() < endsAt;
    });
    const elapsedSeconds = (performance.now() - startedAt) / 1000;
    const reading = readingOf(talks, elapsedSeconds, cpuMsOf(pids()) - cpuBefore);
    await poster.close();
    return reading;
  };
  return {
    id: 'B3',
    title: `first delta, ${sessions} sessions in a closed loop, ${options.seconds} s a run`,
    pairs: options.pairs,
    settle: () => options.stack.settle(),
    variants: [
      {
        name: 'signalbox',
        run: () => run(options.stack.gatewayUrl, options.stack.apiKey, false, () => options.stack.pids()),
      },
      {
        name: 'floor: two bare Kafka hops',
        run: async () => {
          const floor = await options.hops();
          const reading = await run(floor.url, 'floor', true, () => [floor.pid]);
          await floor.close();
          return reading;
        },
      },
    ],
    aims: [
      { figure: 'p50Ms', bound: '<=', value: 16 },
      { figure: 'p99Ms', bound: '<=', value: 40 },
    ],
  };
}

/** B3, open: 1 000 sessions, one message each 2 s whatever the answers do, 20 deltas a second from the model. */
export function openLoopCell(options: {
  stack: BenchStack;
  pairs: number;
  seconds: number;
  sessions: number;
}): Cell {
  const { stack, sessions, seconds } = options;
  const intervalMs = 2000;
  const deltaGapMs = 50;
  return {
    id: 'B3o',
    title: `first delta, ${sessions} sessions, a message each 2 s, 20 deltas a second, ${seconds} s a run`,
    pairs: options.pairs,
    settle: () => stack.settle(),
    variants: [
      {
        name: 'signalbox',
        run: async () => {
          const poster = openPoster(stack.gatewayUrl, stack.apiKey, 64);
          const talks = await openMany(sessions, stack.gatewayUrl, stack.apiKey, poster, false);
          await stack.modelFaults({ tokensPerSecond: 20 });
          await stack.settle();
          const cpuBefore = cpuMsOf(stack.pids());
          const startedAt = performance.now();
          const ends = talks.map(async (talk, index) => {
            // Spread over the interval, as people are.
            await until(startedAt + (index / sessions) * intervalMs);
            for (let at = performance.now(); at < startedAt + seconds * 1000; at += intervalMs) {
              const ended = talk.say('long 20', 60_000);
              await until(at + intervalMs);
              await ended;
            }
          });
          await Promise.all(ends);
          const elapsedSeconds = (performance.now() - startedAt) / 1000;
          const cpuMs = cpuMsOf(stack.pids()) - cpuBefore;
          await stack.modelFaults({});
          const jitters = talks.flatMap((talk) => talk.check.gapsMs.map((gap) => Math.abs(gap - deltaGapMs)));
          const reading = readingOf(talks, elapsedSeconds, cpuMs);
          reading.figures.jitterP99Ms = percentile(jitters, 0.99);
          await poster.close();
          return reading;
        },
      },
    ],
    aims: [
      { figure: 'p50Ms', bound: '<=', value: 12 },
      { figure: 'p99Ms', bound: '<=', value: 60 },
      { figure: 'jitterP99Ms', bound: '<=', value: 20 },
    ],
  };
}

async function openMany(
  count: number,
  base: string,
  apiKey: string,
  poster: ReturnType<typeof openPoster>,
  bare: boolean,
): Promise<Conversation[]> {
  const talks: Conversation[] = [];
  let next = 0;
  await closedLoop(Math.min(count, 32), async () => {
    if (next >= count) return false;
    next += 1;
    talks.push(await openConversation(base, apiKey, poster, { bare, firstMessage: 'hello' }));
    return next < count;
  });
  return talks;
}

function readingOf(talks: readonly Conversation[], elapsedSeconds: number, cpuMs: number): Reading {
  const checks = talks.map((talk) => talk.check);
  const turns = checks.reduce((sum, check) => sum + check.finals, 0);
  const deltas = checks.reduce((sum, check) => sum + check.deltas, 0);
  for (const talk of talks) talk.close();
  const { p50Ms, p99Ms } = latencyOf(checks.flatMap((check) => check.firstDeltasMs));
  return {
    figures: {
      p50Ms,
      p99Ms,
      turnsPerSecond: turns / elapsedSeconds,
      deltasPerSecond: deltas / elapsedSeconds,
      cpuMsPerTurn: cpuMs / turns,
    },
    faults: checks.flatMap((check) => check.faults).slice(0, 20),
  };
}

async function until(atMs: number): Promise<void> {
  const waitMs = atMs - performance.now();
  if (waitMs > 0) await new Promise((resolve) => setTimeout(resolve, waitMs));
}
