import type { Cell, Variant } from '../cell.ts';
import { openPoster } from '../client.ts';
import { openConversation } from '../conversation.ts';
import { cpuMsOf, latencyOf } from '../measure.ts';
import { type BenchStack, recallingPersona, rememberingPersona, type StartFloor } from '../stack.ts';

/** B2: one session, one turn at a time, model without delay: POST sent to first delta read. */
export function firstDeltaCell(options: {
  stack: BenchStack;
  direct: StartFloor;
  hops: StartFloor;
  pairs: number;
}): Cell {
  return {
    id: 'B2',
    title: 'first delta, idle, one session, without and with memories',
    pairs: options.pairs,
    settle: () => options.stack.settle(),
    variants: [
      productVariant(options.stack, 'hello there', plainTurns),
      productVariant(options.stack, 'hello there', plainTurns, recallingPersona),
      productVariant(options.stack, 'hello there', plainTurns, rememberingPersona),
      floorVariant('floor: fastify to model', options.direct, plainTurns),
      floorVariant('floor: two bare Kafka hops', options.hops, plainTurns),
    ],
    aims: [
      { figure: 'p50Ms', bound: '<=', value: 4 },
      { figure: 'p99Ms', bound: '<=', value: 10 },
      { figure: 'rowsPerTurn', bound: '<=', value: 25 },
    ],
  };
}

/** B2t: the same with one tool call before the answer. */
export function toolTurnCell(options: { stack: BenchStack; hops: StartFloor; pairs: number }): Cell {
  return {
    id: 'B2t',
    title: 'first delta, idle, one session, one tool call',
    pairs: options.pairs,
    settle: () => options.stack.settle(),
    variants: [
      productVariant(options.stack, 'what is 12 * 34?', toolTurns),
      floorVariant('floor: four bare Kafka hops', options.hops, toolTurns),
    ],
    aims: [
      { figure: 'p50Ms', bound: '<=', value: 8 },
      { figure: 'p99Ms', bound: '<=', value: 20 },
      { figure: 'rowsPerTurn', bound: '<=', value: 40 },
    ],
  };
}

interface Rhythm {
  warmUpTurns: number;
  measuredTurns: number;
  pauseMs: number;
}

/**
 * Each tool call has a process of its own, started ahead; one that is started takes some 40 ms of a core. Back to back
 * the cell would measure that, and not the path; a person takes longer to write the next message.
 */
const toolTurns: Rhythm = { warmUpTurns: 30, measuredTurns: 100, pauseMs: 120 };

const pause = (ms: number): Promise<void> =>
  ms === 0 ? Promise.resolve() : new Promise((resolve) => setTimeout(resolve, ms));

const plainTurns: Rhythm = { warmUpTurns: 100, measuredTurns: 200, pauseMs: 0 };

function productVariant(stack: BenchStack, message: string, rhythm: Rhythm, personaId?: string): Variant {
  const { warmUpTurns, measuredTurns, pauseMs } = rhythm;
  return {
    name: personaId === undefined ? 'signalbox' : `signalbox, persona ${personaId}`,
    run: async () => {
      const poster = openPoster(stack.gatewayUrl, stack.apiKey, 1);
      const talk = await openConversation(stack.gatewayUrl, stack.apiKey, poster, {
        ...{ bare: false, firstMessage: 'hello', ...(personaId && { personaId }) },
      });
      for (let turn = 0; turn < warmUpTurns; turn += 1) await talk.say(message);
      talk.check.firstDeltasMs.length = 0;
      await stack.settle();
      const rowsBefore = await stack.rowsWritten();
      const cpuBefore = cpuMsOf(stack.pids());
      for (let turn = 0; turn < measuredTurns; turn += 1) {
        // Two that say the same are folded; people say something new.
        await talk.say(personaId === undefined ? message : `${message} ${turn}`);
        await pause(pauseMs);
      }
      const cpuMs = cpuMsOf(stack.pids()) - cpuBefore;
      await stack.settle();
      const rows = (await stack.rowsWritten()) - rowsBefore;
      talk.close();
      await poster.close();
      const { p50Ms, p99Ms, count } = latencyOf(talk.check.firstDeltasMs);
      const faults = [...talk.check.faults];
      if (count !== measuredTurns) faults.push(`${count} first deltas of ${measuredTurns} turns`);
      return {
        figures: { p50Ms, p99Ms, rowsPerTurn: rows / measuredTurns, cpuMsPerTurn: cpuMs / measuredTurns },
        faults,
      };
    },
  };
}

function floorVariant(name: string, start: StartFloor, rhythm: Rhythm): Variant {
  const { warmUpTurns, measuredTurns, pauseMs } = rhythm;
  return {
    name,
    run: async () => {
      const floor = await start();
      const poster = openPoster(floor.url, 'floor', 1);
      const talk = await openConversation(floor.url, 'floor', poster, { bare: true, firstMessage: 'hello' });
      for (let turn = 0; turn < warmUpTurns; turn += 1) await talk.say('hello there');
      talk.check.firstDeltasMs.length = 0;
      for (let turn = 0; turn < measuredTurns; turn += 1) {
        await talk.say('hello there');
        await pause(pauseMs);
      }
      talk.close();
      await poster.close();
      await floor.close();
      const { p50Ms, p99Ms } = latencyOf(talk.check.firstDeltasMs);
      return { figures: { p50Ms, p99Ms }, faults: [...talk.check.faults] };
    },
  };
}
