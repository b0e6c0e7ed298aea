import type { Cell, Reading, Variant } from '../cell.ts';
import { closedLoop, openPoster } from '../client.ts';
import { cpuMsOf, latencyOf } from '../measure.ts';
import type { BenchStack, StartFloor } from '../stack.ts';

const connections = 32;
/** 200 bytes of body, the workload of every cell. */
const message = 'a message of two hundred bytes as people write them, '.repeat(4).slice(0, 187);

/** B1: POST to 202 after the durable commit, authenticated and rate limited, over 32 connections. */
export function acceptCell(options: {
  stack: BenchStack;
  instant: StartFloor;
  sendPerRequest: StartFloor;
  pairs: number;
  seconds: number;
}): Cell {
  const { stack, seconds } = options;
  return {
    id: 'B1',
    title: `accept: ${connections} connections, 200 B, ${seconds} s a run`,
    pairs: options.pairs,
    settle: () => stack.settle(),
    variants: [
      {
        name: 'signalbox',
        run: async () => {
          const before = await stack.acceptedRecords();
          const { reading, accepted } = await load(stack.gatewayUrl, stack.apiKey, seconds, () =>
            stack.pids(),
          );
          await stack.settle();
          const inLog = (await stack.acceptedRecords()) - before;
          if (inLog !== accepted)
            reading.faults.push(`${accepted} accepted, ${inLog} in conversation.inbound`);
          return reading;
        },
      },
      floorVariant('floor: answers at once', options.instant, seconds),
      floorVariant('floor: kafkajs send each', options.sendPerRequest, seconds),
    ],
    aims: [
      { figure: 'rate', of: 'floor: answers at once', bound: '>=', value: 0.25 },
      { figure: 'p99Ms', bound: '<=', value: 10 },
    ],
  };
}

function floorVariant(name: string, start: StartFloor, seconds: number): Variant {
  return {
    name,
    run: async () => {
      const floor = await start();
      const { reading } = await load(floor.url, 'floor', seconds, () => [floor.pid]);
      await floor.close();
      return reading;
    },
  };
}

async function load(
  base: string,
  apiKey: string,
  seconds: number,
  pids: () => number[],
): Promise<{ reading: Reading; accepted: number }> {
  const poster = openPoster(base, apiKey, connections);
  const latencies: number[] = [];
  const refused = new Map<number, number>();
  const cpuBefore = cpuMsOf(pids());
  const startedAt = performance.now();
  const endsAt = startedAt + seconds * 1000;
  await closedLoop(connections, async () => {
    const posted = await poster.post({ message });
    if (posted.status === 202) latencies.push(posted.ms);
    else refused.set(posted.status, (refused.get(posted.status) ?? 0) + 1);
    return performance.now() < endsAt;
  });
  const elapsedSeconds = (performance.now() - startedAt) / 1000;
  const cpuMs = cpuMsOf(pids()) - cpuBefore;
  await poster.close();
  const { p50Ms, p99Ms } = latencyOf(latencies);
  return {
    accepted: latencies.length,
    reading: {
      figures: {
        rate: latencies.length / elapsedSeconds,
        p50Ms,
        p99Ms,
        cpuUsPerOp: (cpuMs * 1000) / latencies.length,
      },
      faults: [...refused].map(([status, count]) => `${count} requests answered ${status}`),
    },
  };
}
