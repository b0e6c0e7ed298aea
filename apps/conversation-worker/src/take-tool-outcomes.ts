import { headerNames } from '@signalbox/contracts/headers';
import { readValue } from '@signalbox/contracts/validate';
import type {
  IntakeHandler,
  IntakeRecord,
  Outbox,
  OutgoingMessage,
  RecordHead,
} from '@signalbox/messaging/messaging';
import type { Transaction } from '@signalbox/postgres/database';
import type { Logger } from '@signalbox/telemetry/telemetry';
import type { Worker, WorkItem } from '@signalbox/work/worker';
import { cleanText } from './code-points.ts';
import type { ArrivedOutcome, IntakeStore } from './intake-store.ts';
import type { OpenedTurn } from './opened-turn.ts';
import { taskCancelRequested } from './task-events.ts';
import { type TurnIdentity, toolResult } from './turn-events.ts';

/** An outcome with whose it is and the tool's name, for the client's event. */
export interface OutcomeToTake extends ArrivedOutcome {
  readonly tool: string;
  readonly turn: TurnIdentity;
  /** Of a task that is not waited for any longer: it is to end. */
  readonly endTask?: string;
}

export interface TakeOutcomesParts {
  readonly store: IntakeStore;
  readonly worker: Pick<Worker, 'claimWithin'>;
  readonly outbox: Outbox;
  readonly historyTokens: number;
  readonly log: Logger;
  keepOpened(item: WorkItem, opened: OpenedTurn): void;
}

/** Results for this service; the executor's started and progress reports are for nobody here (see request-tools.ts). */
export function isOurOutcome({ headers, eventType }: RecordHead): boolean {
  return headers[headerNames.replyTo] === 'conversation-worker' && eventType === 'tool.outcome';
}

/** Intake of tool.results: each outcome goes to its step, and the last one of a round continues the parked turn. */
export function takeToolResults(parts: TakeOutcomesParts): IntakeHandler {
  return async (records, tx, context) => {
    const fates = await takeOutcomes(parts, tx, records.flatMap(outcomeOf));
    context.duplicates(fates.filter((fate) => fate === 'repeated').length);
  };
}

/**
 * Stores outcomes and lets their turns go on, in the caller's transaction:
 *
 *   store       the lane's lock, then each outcome once: the step's row is the inbox. Late and repeated ones change
 *               nothing else, those of a cancelled turn among them.
 *   resume      pending − 1; at 0 the turn is ready, and claimed and opened at once where a slot is free.
 *   tool.result through the outbox. The turn is parked, so nobody holds the lane; the row is in the session's order
 *               because this transaction has the lane's lock, and another holder claims after the commit. The lane
 *               before the steps and both before the outbox, as everywhere: the other way round this and an intake of a
 *               message, or the end of a cancelled turn, would wait for each other.
 *
 * Resume and put share a round trip. After the commit the put's rows are queued first, and then the claimed run begins:
 * the worker learns of the claim when both are answered.
 */
export async function takeOutcomes(
  parts: TakeOutcomesParts,
  tx: Transaction,
  outcomes: readonly OutcomeToTake[],
): Promise<string[]> {
  if (outcomes.length === 0) return [];
  const { store, log } = parts;
  const fates = await store.storeToolOutcomes(tx, outcomes);
  const applied = outcomes.flatMap((each, at) => {
    const fate = fates[at];
    if (fate?.fate === 'applied') return [{ ...each, attempt: fate.attempt }];
    if (fate?.fate !== 'repeated') {
      log.info('tool.outcome_not_applied', { turnId: each.turnId, callId: each.callId, fate: fate?.fate });
    }
    return [];
  });
  const messages = applied.flatMap(({ turn, attempt, step, callId, tool, outcome, endTask }) => [
    toolResult(turn, attempt, { step, callId, tool }, outcome),
    ...(endTask === undefined
      ? []
      : [taskCancelRequested(turn, endTask, 'it was not waited for any longer')]),
  ]);
  await goOn(parts, tx, applied, messages);
  return fates.map(({ fate }) => fate);
}

/** Counts the outcomes down that were applied, claims the turns that can go on, and puts what is told of it. */
export async function goOn(
  parts: TakeOutcomesParts,
  tx: Transaction,
  applied: readonly ArrivedTurn[],
  messages: readonly OutgoingMessage[],
): Promise<void> {
  const { store, worker, outbox, historyTokens } = parts;
  if (applied.length === 0) return await outbox.put(tx, messages);
  await worker.claimWithin(tx, async (slots, terms) => {
    const [claims] = await Promise.all([
      store.resumeTurns(tx, applied, { ...terms, slots, historyTokens }),
      outbox.put(tx, messages),
    ]);
    for (const claim of claims) parts.keepOpened(claim.item, claim.opened);
    return { result: undefined, claims, more: claims.length < applied.length };
  });
}

type ArrivedTurn = Pick<ArrivedOutcome, 'tenant' | 'key' | 'turnId'>;

function outcomeOf(record: IntakeRecord): OutcomeToTake[] {
  const value = readValue('tool.results', 'tool.outcome', record.value);
  // `accepts` lets nothing else through.
  if (value === undefined) return [];
  const { tenant, key, eventId, traceparent, headers } = record;
  return [
    {
      ...{
        tenant,
        key,
        eventId,
        turnId: value.turn_id,
        step: value.step,
        callId: value.call_id,
        tool: value.tool,
      },
      turn: {
        ...{ tenant, traceparent, sessionId: value.session_id, turnId: value.turn_id },
        requestId: headers[headerNames.requestId],
      },
      outcome: {
        outcome: value.outcome,
        output: cleanText(value.output),
        truncated: value.truncated,
        duration_ms: value.duration_ms,
        ...(value.error_code === undefined ? {} : { error_code: value.error_code }),
        ...(value.message === undefined ? {} : { message: cleanText(value.message) }),
      },
    },
  ];
}
