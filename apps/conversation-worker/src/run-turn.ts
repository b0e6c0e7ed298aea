import { asFault, fault, isFault } from '@signalbox/faults/fault';
import { runWithContext } from '@signalbox/telemetry/context';
import { attribute, startSpan, withSpan } from '@signalbox/telemetry/trace';
import type { Lease, WorkItem } from '@signalbox/work/worker';
import { AnswerStream } from './answer-stream.ts';
import { type CutShort, endCutShort, endFromJournal } from './cancel-turn.ts';
import type { TurnCancel } from './intake-store.ts';
import type { OpenedTurn, TurnPayload } from './opened-turn.ts';
import { elapsedMs, type Run, runRounds, type TurnParts } from './run-rounds.ts';
import { recordSender, withdrawOnLoss } from './send-records.ts';
import { turnEnded } from './turn-ended.ts';
import { assistantError, type TurnIdentity } from './turn-events.ts';
import { summarize } from './turn-journal.ts';
import { limitsOf } from './turn-limits.ts';
import { openingOf } from './turn-opening.ts';

/** How long the opening of a run waits for the first piece, to go out in one request with it. */
const openingWaitMs = 5;

/**
 * A turn is a state machine whose states are rows, so that any process can go on with it.
 *
 *   message ──► ready ───────────► running ──► done         assistant.final
 *      │          │ ▲                │ │ ├────► failed       assistant.error
 *      │          │ ├─ another try ──┘ │ └────► cancelled    turn.cancelled, with the text that stands
 *      │          │ └─ last outcome ── parked
 *      │          └──────────────────────────► cancelled    turn.cancelled, it never ran
 *      └─────────────────────────────────────► rejected     turn.rejected, it found its session busy
 *
 * The four on the right are ends: exactly one of them is stored, under the lane's lock and with its event in the same
 * transaction, and nothing leads out of it.
 *
 * ready: it waits behind a turn of its session, for a slot, or for the delay of its next try. running: somebody holds its
 * lane under a lease; a lease that runs out makes it a further attempt of somebody else. parked: nobody holds its lane,
 * it waits for tools, or for tasks that it has delegated. cancel (libs/work/src/sql/cancel.ts): of a ready turn that never
 * ran it is the end; a running one is flagged, and its holder ends it; one that is parked or between two tries is made
 * ready and claimed to be ended.
 *
 * A run takes it as far as it goes: to an end, to a park, or to a fault.
 *
 *   claimed ──► opened ──► recall, once ──► model call ──► final, memories and finish, one transaction
 *                 ▲                             │
 *                 │                             └────────► tools: outcome, requests and park, one transaction ──► parked
 *                 └── the last outcome of a parked round makes the turn ready, and it is claimed again
 *
 * Recall has no step of its own: what it gave is part of the first model step's outcome, so it is asked again exactly when
 * that step is. A task is a tool step whose request goes to delegation-worker.
 *
 * The journal (`steps`) is what a run knows of those before it. A step's operation key, a hash over the turn, the step and
 * what the call depends on, is stored before the first try of the step: of a model step in the transaction that claims or
 * parks, of a tool step in the one that puts its request into the outbox. Its outcome is stored in the transaction that
 * moves the turn on. So a run finds each step finished, which is never tried again, or open: a model step is asked again;
 * a tool step is waited for, and nobody but the executor decides about a second try, by the key: one whose outcome a crash
 * has hidden is `unknown` unless the tool says that it is idempotent, and then it gets the key with the call.
 *
 * One writer a session (delivery rule 18): the holder of the lane writes openings, memory.recalled, deltas and
 * tool.started directly, the end through the outbox in the transaction that ends its turn. While a turn is parked nobody
 * holds its lane; the intake of a tool's outcome then writes tool.result, and that of a task's update delegation.updated,
 * in its transaction, under the lane's lock and through the outbox alone. Whoever claims the lane later sees such a row if
 * it is not sent yet, and sends it before its first direct record.
 *
 * Order of a holder's own records: deltas and the rows of one process share one queue a key, every delta is acknowledged
 * before a transaction that ends the round is begun, and after a lost lease nothing is sent: each send asks the lease
 * first, and the broker's log has the attempt on every record for what was under way.
 */
export function turnRunner(parts: TurnParts) {
  // From a run that its cancel has stopped to the end of its turn.
  const cutShort = new WeakMap<WorkItem, CutShort>();
  return {
    /** Runs the item. Throws LEASE_LOST, DRAINING (hand it over) or the fault to retry or give up for. */
    run(item: WorkItem, lease: Lease): Promise<void> {
      const payload = payloadOf(item);
      return inTurn(item, payload, () => runOpened(parts, cutShort, item, payload, lease));
    },

    /** Ends a turn that can not be finished with assistant.error. */
    giveUp(item: WorkItem, lease: Lease, error: unknown): Promise<void> {
      const payload = payloadOf(item);
      return inTurn(item, payload, async () => {
        const known = asFault(error);
        const turn = identityOf(item, payload);
        const { code, message } = known;
        await parts.store.end(item, lease, {
          ...{ step: 0, outcome: undefined, sessionId: payload.session_id, history: undefined },
          ...{ state: 'failed', error: `${code}: ${message}` },
          messages: [
            assistantError(turn, item.attempt, known),
            ...turnEnded(turn, payload, { outcome: 'error', text: '', error_code: code, message }),
          ],
        });
        parts.metrics.ended('error', Date.now() - item.enqueuedAt.getTime());
        parts.log.error('turn.failed', { turnId: item.id, attempt: item.attempt, error: known });
      });
    },

    /** Ends a turn whose end was asked for: before its claim, or while its run was here, which has thrown. */
    cancelled(item: WorkItem, lease: Lease, cancel: unknown): Promise<void> {
      const payload = payloadOf(item);
      return inTurn(item, payload, async () => {
        // Our own intake wrote it.
        const ended = { item, payload, turn: identityOf(item, payload), lease, cancel: cancel as TurnCancel };
        const cut = cutShort.get(item);
        if (cut === undefined) await endFromJournal(parts, ended);
        else await endCutShort(parts, ended, cut);
      });
    },
  };
}

function inTurn(item: WorkItem, payload: TurnPayload, run: () => Promise<void>): Promise<void> {
  const ids = { requestId: payload.request_id, tenantId: item.tenant, sessionId: payload.session_id };
  const attributes = {
    [attribute.turnId]: item.id,
    [attribute.eventId]: payload.event_id,
    [attribute.tenantId]: item.tenant,
    [attribute.sessionId]: payload.session_id,
    [attribute.attempt]: item.attempt,
  };
  return runWithContext(ids, () => withSpan('turn', { parent: item.traceparent, attributes }, run));
}

function identityOf(item: WorkItem, payload: TurnPayload): TurnIdentity {
  return {
    tenant: item.tenant,
    sessionId: payload.session_id,
    turnId: item.id,
    requestId: payload.request_id,
    traceparent: undefined, // that of the run's span, which is in the trace of the row
  };
}

async function runOpened(
  parts: TurnParts,
  cutShort: WeakMap<WorkItem, CutShort>,
  item: WorkItem,
  payload: TurnPayload,
  lease: Lease,
): Promise<void> {
  // Hand-overs do not count: they say nothing about the turn.
  if (item.retries + (item.lost ?? 0) >= parts.maxAttempts) {
    // Most of these tries ended without a word: the process died with the turn. It may be the turn that kills it.
    throw fault('RETRY_BUDGET_SPENT', `the turn was given up after ${parts.maxAttempts} tries`);
  }
  const startedAt = performance.now();
  const opened = parts.takeOpened(item) ?? (await parts.store.open(item, lease, parts.limits.historyTokens));
  if (opened.persona === undefined) throw fault('NOT_FOUND', `there is no persona ${payload.persona_id}`);
  const known = parts.outbox.knows('conversation.outbound', item.key, opened.lastOwnRow);
  if (opened.foreignRows || !known) await parts.outbox.adopt('conversation.outbound', item.key, lease.signal);
  tellToolWaits(item, opened);

  const limits = limitsOf(opened.persona.limits, parts.limits);
  const { stopped, cancelled } = reasonsToEnd(lease.signal);
  const [failed, timeUp, withdraw] = [new AbortController(), new AbortController(), new AbortController()];
  withdrawOnLoss(lease, withdraw);
  const leftMs = limits.maxTurnMs - opened.elapsedMs;
  if (leftMs <= 0) timeUp.abort();
  const timer = setTimeout(() => timeUp.abort(), Math.max(0, leftMs));
  const turn = identityOf(item, payload);
  const summary = summarize(opened.steps);
  const answer = new AnswerStream({
    turnId: item.id,
    attempt: item.attempt,
    textBefore: summary.textLength,
    thinkingBefore: summary.thinkingLength,
    opening: openingOf(item, payload, opened.steps, summary),
    openingWaitMs,
    coalesceMs: parts.coalesceMs,
    send: recordSender(parts, turn, item.key, lease, withdraw.signal),
    onFailure: (error) => failed.abort(error),
  });
  const { persona } = opened;
  const run: Run = {
    ...{ parts, item, payload, turn, lease, opened, persona, limits, answer },
    ...{ signal: AbortSignal.any([stopped, failed.signal]), timeUp: timeUp.signal, cancelled, startedAt },
    progress: { steps: opened.steps.filter(({ outcome }) => outcome !== null), round: undefined },
  };
  try {
    await runRounds(run);
  } catch (error) {
    if (lease.cancelled() !== undefined && lease.holds() && !isFault(error, 'LEASE_LOST')) {
      cutShort.set(item, {
        ...{ answer, withdraw, textBefore: summary.text, ...run.progress },
        elapsedMs: () => elapsedMs(run),
      });
    }
    throw error;
  } finally {
    clearTimeout(timer);
    // On every way out: what is in flight is acknowledged or withdrawn before the lane goes to somebody else. Of a run
    // that was cut short who ends the turn sees to it.
    if (!cutShort.has(item)) await answer.close();
  }
}

/** A lease ends a run to stop it as it is, or to have its turn ended with what there is. */
function reasonsToEnd(signal: AbortSignal): { stopped: AbortSignal; cancelled: AbortSignal } {
  const [stopped, cancelled] = [new AbortController(), new AbortController()];
  const tell = () => (isFault(signal.reason, 'CANCELLED') ? cancelled : stopped).abort(signal.reason);
  if (signal.aborted) tell();
  else signal.addEventListener('abort', tell, { once: true });
  return { stopped: stopped.signal, cancelled: cancelled.signal };
}

/** The waits that brought this run: each as a span from the request to its outcome, in the turn's trace. */
function tellToolWaits(item: WorkItem, { steps }: OpenedTurn): void {
  const lastModel = steps.findLastIndex(({ kind, outcome }) => kind === 'model' && outcome !== null);
  if (lastModel < 0) return;
  for (const step of steps.slice(lastModel + 1)) {
    if (step.kind !== 'tool' || step.finished_ms === null || step.attempt !== item.attempt) continue;
    startSpan('tool.wait', {
      startedAtMs: step.started_ms,
      attributes: {
        [attribute.turnId]: item.id,
        [attribute.callId]: step.operationKey,
        'signalbox.tool': step.input.tool,
        'signalbox.outcome': step.outcome?.outcome ?? '',
      },
    }).end(step.finished_ms);
  }
}

/** The payload that this service's own intake wrote; format 1. */
function payloadOf(item: WorkItem): TurnPayload {
  return item.payload as TurnPayload;
}
