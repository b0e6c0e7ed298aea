import { endedTaskStatuses, type TaskUpdated } from '@signalbox/contracts/delegation-updates';
import { headerNames } from '@signalbox/contracts/headers';
import { sessionKey } from '@signalbox/contracts/keys';
import { readValue } from '@signalbox/contracts/validate';
import type { IntakeHandler, IntakeRecord, RecordHead } from '@signalbox/messaging/messaging';
import { cleanFields, cleanText, cutBefore } from './code-points.ts';
import { callIdOf, delegateToolName } from './delegate-tool.ts';
import type { ArrivedUpdate } from './intake-store.ts';
import { goOn, type TakeOutcomesParts } from './take-tool-outcomes.ts';
import { delegationUpdated } from './task-events.ts';
import { type TurnIdentity, toolResult } from './turn-events.ts';
import type { ToolOutcomeStored } from './turn-journal.ts';

/** Longest result that the model is given, and of which the client is told, in code units. */
const resultUnits = 32_768;

interface UpdateToTake extends ArrivedUpdate {
  readonly turn: TurnIdentity;
  readonly update: TaskUpdated;
}

/** Updates of tasks that turns have delegated. */
export function isOurUpdate({ headers, eventType }: RecordHead): boolean {
  return headers[headerNames.replyTo] === 'conversation-worker' && eventType === 'task.updated';
}

/**
 * Intake of delegation.updates. Its order is that of `takeOutcomes`: the lane's lock, the step, what the turn waits for,
 * the outbox.
 *
 *   store    each update above the last one of its step, once: the step's row is the inbox. One that ends the task is the
 *            step's outcome, unless it has one (its wait was over, the turn was cancelled): then it is kept as the late one.
 *   tell     delegation.updated, and tool.result behind the last one. The turn is parked, so nobody holds the lane, and
 *            the rows are in the session's order because this transaction has the lane's lock. An update cannot come
 *            before its turn is parked: the task is submitted by the transaction that parks.
 *   resume   pending − 1 for what ended.
 */
export function takeTaskUpdates(parts: TakeOutcomesParts): IntakeHandler {
  return async (records, tx, context) => {
    const updates = records.flatMap(updateOf);
    if (updates.length === 0) return;
    const fates = await parts.store.storeTaskUpdates(tx, updates);
    const taken = updates.flatMap((each, at) => {
      const found = fates[at];
      if (found?.fate === 'applied' || found?.fate === 'shown') return [{ ...each, attempt: found.attempt }];
      if (found?.fate !== 'repeated') {
        const { turnId, callId } = each;
        parts.log.info('tool.outcome_not_applied', { turnId, callId, fate: found?.fate });
      }
      return [];
    });
    context.duplicates(fates.filter(({ fate }) => fate === 'repeated').length);
    const messages = taken.flatMap(({ turn, attempt, step, callId, update, outcome }) => [
      delegationUpdated(turn, attempt, step, update),
      ...(outcome === undefined
        ? []
        : [toolResult(turn, attempt, { step, callId, tool: delegateToolName }, outcome)]),
    ]);
    const ended = taken.filter(({ outcome }) => outcome !== undefined);
    await goOn(parts, tx, ended, messages);
  };
}

function updateOf(record: IntakeRecord): UpdateToTake[] {
  const value = readValue('delegation.updates', 'task.updated', record.value);
  // One without an origin was made by no turn; nobody here waits for it.
  if (value?.origin === undefined) return [];
  const { tenant, eventId, traceparent, headers } = record;
  const { session_id: sessionId, turn_id: turnId, step } = value.origin;
  const update = shownOf(value);
  return [
    {
      ...{
        tenant,
        eventId,
        turnId,
        step,
        key: sessionKey(tenant, sessionId),
        callId: callIdOf(value.task_id),
      },
      ...{ seq: value.seq, outcome: outcomeOf(value), update },
      turn: { tenant, traceparent, sessionId, turnId, requestId: headers[headerNames.requestId] },
    },
  ];
}

/** As a client is told of it: without what cannot be stored, and with no more of the result than the model is given. */
function shownOf(update: TaskUpdated): TaskUpdated {
  const { result, progress, error, ...rest } = update;
  const small = result !== undefined && JSON.stringify(result).length <= resultUnits;
  return {
    ...rest,
    ...(progress === undefined ? {} : { progress: cleanText(progress) }),
    ...(small ? { result: cleanFields(result) } : {}),
    ...(error === undefined ? {} : { error: { ...error, message: cleanText(error.message) } }),
  };
}

/** What the model is told of a task that has ended: of a persona its answer, of a program its result as JSON. */
function outcomeOf(update: TaskUpdated): ToolOutcomeStored | undefined {
  const { status, result = {}, error, submitted_at, updated_at } = update;
  if (!endedTaskStatuses.includes(status)) return undefined;
  const whole = typeof result.text === 'string' ? result.text : JSON.stringify(result);
  const cut = cutBefore(whole, resultUnits);
  const ended = {
    truncated: false,
    duration_ms: Math.max(0, Date.parse(updated_at) - Date.parse(submitted_at)),
  };
  if (status === 'completed') {
    return { outcome: 'ok', output: cleanText(whole.slice(0, cut)), ...ended, truncated: cut < whole.length };
  }
  return {
    ...{ outcome: failures[status] ?? 'error', output: '', ...ended },
    error_code: error?.error_code ?? `TASK_${status.toUpperCase()}`,
    message: cleanText(error?.message ?? `the task is ${status}`),
  };
}

const failures: Readonly<Record<string, string>> = {
  failed: 'error',
  cancelled: 'cancelled',
  expired: 'wall_limit',
};
