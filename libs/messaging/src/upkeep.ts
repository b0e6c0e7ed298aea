import { newId } from '@signalbox/contracts/ids';
import { jobsCommandsSchema, type UpkeepDone, type UpkeepRequested } from '@signalbox/contracts/jobs';
import { idKey } from '@signalbox/contracts/keys';
import { isFaultCode } from '@signalbox/faults/catalog';
import { fault } from '@signalbox/faults/fault';
import type { Logger, Metrics } from '@signalbox/telemetry/telemetry';
import { type Answerer, type Answering, openAnswerer } from './answerer.ts';
import type { Asker } from './asker.ts';
import type { Messaging } from './messaging.ts';

const requests = 'jobs.commands';
const results = 'jobs.results';

/** Upkeep goes over all tenants; its records need the name of one. */
export const upkeepTenant = 'upkeep';

export interface UpkeepPiece {
  /** Rows, or what the task counts, at most. */
  readonly limit: number;
  /** What the piece before gave as `resume`. */
  readonly resume: Readonly<Record<string, unknown>> | undefined;
  /** Aborts at the deadline: nobody waits for the piece any more. */
  readonly signal: AbortSignal;
}

export interface UpkeepOutcome {
  readonly done: number;
  /** Whether another piece would find something. */
  readonly more: boolean;
  readonly resume?: Record<string, unknown>;
  readonly detail?: Record<string, unknown>;
}

/** One bounded piece of upkeep; doing it twice does no more than once. */
export type UpkeepTask = (piece: UpkeepPiece) => Promise<UpkeepOutcome>;

/** By name, as job-worker asks for them. */
export type UpkeepTasks = Readonly<Record<string, UpkeepTask>>;

/**
 * How a service answers `upkeep.requested`, beside other questions of jobs.commands: one consumer a service and topic.
 * A task runs once at a time in this process (CONFLICT); one that it does not have is NOT_FOUND.
 */
export function upkeepAnswer(
  service: string,
  tasks: UpkeepTasks,
): Answering<typeof requests, 'upkeep.requested', typeof results> {
  const known = new Map(Object.entries(tasks));
  const running = new Set<string>();
  return {
    accepts: ({ value }) => value.owner === service,
    async answer({ value: { task, limit, resume } }, signal) {
      const run = known.get(task);
      if (run === undefined) throw fault('NOT_FOUND', `${service} has no upkeep task ${task}`);
      if (running.has(task)) throw fault('CONFLICT', `${task} is running`);
      running.add(task);
      try {
        const outcome = await run({ limit, resume, signal });
        return { eventType: 'upkeep.done', value: { owner: service, task, ...outcome } };
      } finally {
        running.delete(task);
      }
    },
  };
}

export interface AnswerUpkeepOptions {
  readonly messaging: Messaging;
  readonly service: string;
  readonly tasks: UpkeepTasks;
  readonly log: Logger;
  readonly metrics: Metrics;
}

/** For a service that answers nothing else of jobs.commands. */
export function answerUpkeep({ service, tasks, ...rest }: AnswerUpkeepOptions): Answerer {
  return openAnswerer({
    ...{ ...rest, service, requests, results, refused: 'jobs.refused', concurrency: 2 },
    answers: { 'upkeep.requested': upkeepAnswer(service, tasks) },
  });
}

export interface UpkeepQuestion extends Pick<UpkeepRequested, 'owner' | 'task' | 'limit'> {
  readonly resume?: Record<string, unknown> | undefined;
  readonly deadlineMs: number;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Has the owner do one piece. Faults: those of `ask`, and what the owner refuses it with: NOT_FOUND for a task that it
 * does not have, CONFLICT while the task runs there, what its task has failed with.
 */
export async function askUpkeep(
  asker: Pick<Asker<typeof requests, typeof results>, 'ask'>,
  { owner, task, limit, resume, deadlineMs, signal }: UpkeepQuestion,
): Promise<UpkeepDone> {
  const answer = await asker.ask({
    ...{ tenant: upkeepTenant, key: idKey(upkeepTenant, newId()), deadlineMs, signal },
    ...{ eventType: 'upkeep.requested', schema: jobsCommandsSchema },
    value: { owner, task, limit, ...(resume === undefined ? {} : { resume }) },
  });
  if (answer.eventType === 'upkeep.done') return answer.value;
  if (answer.eventType !== 'jobs.refused') {
    throw fault('INTERNAL_ERROR', `${answer.eventType} is no answer to upkeep`);
  }
  const { error_code, message } = answer.value;
  throw fault(isFaultCode(error_code) ? error_code : 'INTERNAL_ERROR', message);
}
