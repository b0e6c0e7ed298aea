import { newId } from '@signalbox/contracts/ids';
import { repeat } from '@signalbox/lifecycle/repeat';
import type { Database } from '@signalbox/postgres/database';
import { withoutTrace } from '@signalbox/telemetry/trace';
import { type TakeOutcomesParts, takeOutcomes } from './take-tool-outcomes.ts';

const everyMs = 1_000;
const atOnce = 100;

/**
 * The net under parked turns: a tool or a task whose wait is over gets the outcome `unknown`, and its turn goes on with
 * that; the task is told to end. What comes later for the call is stored as late_outcome. Every replica looks, once a
 * second; an outcome counts once, and two that look at the same moment are parted by the step's row.
 */
export function endWaits(
  parts: TakeOutcomesParts & { readonly database: Database },
  signal: AbortSignal,
): Promise<void> {
  const step = () => endExpired(parts);
  const onError = (error: unknown, again: boolean) => {
    if (!again) parts.log.warning('turn.waits_not_ended', { error });
  };
  return withoutTrace(() => repeat(everyMs, step, onError, signal));
}

async function endExpired(parts: TakeOutcomesParts & { readonly database: Database }): Promise<void> {
  const waits = await parts.store.waitsOver(atOnce);
  if (waits.length === 0) return;
  const outcomes = waits.map(
    ({ tenant, key, turnId, sessionId, requestId, traceparent, step, callId, input, waitedMs }) => ({
      ...{ tenant, key, turnId, step, callId, tool: input.tool, eventId: newId() },
      ...(input.task === undefined ? {} : { endTask: input.task.task_id }),
      turn: { tenant, sessionId, turnId, requestId, traceparent },
      outcome: {
        outcome: 'unknown',
        output: '',
        truncated: false,
        duration_ms: Math.round(waitedMs),
        error_code: 'TOOL_OUTCOME_UNKNOWN',
        message: 'no outcome came in time',
      },
    }),
  );
  await parts.database.transaction((tx) => takeOutcomes(parts, tx, outcomes));
  parts.log.warning('turn.waits_ended', { calls: outcomes.length });
}
