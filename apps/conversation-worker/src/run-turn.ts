import type { EndReason } from '@signalbox/contracts/conversation-outbound';
import { asFault, fault, isFault } from '@signalbox/faults/fault';
import { failPoint } from '@signalbox/lifecycle/fail-point';
import type { Outbox } from '@signalbox/messaging/messaging';
import { runWithContext } from '@signalbox/telemetry/context';
import { attribute, startSpan, withSpan } from '@signalbox/telemetry/trace';
import type { Lease, WorkItem } from '@signalbox/work/worker';
import { AnswerStream } from './answer-stream.ts';
import { callModel, type ModelRound } from './call-model.ts';
import { type CancelParts, type CutShort, endCutShort, endFromJournal } from './cancel-turn.ts';
import { conversationOf, turnTokens } from './history-window.ts';
import type { TurnCancel } from './intake-store.ts';
import type { Models } from './models.ts';
import type { OpenedTurn, Persona, TurnPayload } from './opened-turn.ts';
import { requestTools } from './request-tools.ts';
import { recordSender, type SendingParts, withdrawOnLoss } from './send-records.ts';
import { assistantError, assistantFinal, type TurnIdentity } from './turn-events.ts';
import { type JournalSummary, nextStep, type Step, summarize } from './turn-journal.ts';
import { type AfterRound, afterRound, limitsOf, type TurnLimits } from './turn-limits.ts';
import { openingOf } from './turn-opening.ts';

export interface TurnParts extends CancelParts, SendingParts {
  readonly models: Models;
  readonly outbox: Outbox;
  /** The start of a run that came with its claim, if it did. */
  takeOpened(item: WorkItem): OpenedTurn | undefined;
  readonly limits: TurnLimits;
  readonly maxAttempts: number;
  readonly toolWaitMs: number;
  readonly coalesceMs: number;
}

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
 * it waits for tools. cancel (libs/work/src/sql/cancel.ts): of a ready turn that never ran it is the end; a running one is
 * flagged, and its holder ends it; one that is parked or between two tries is made ready and claimed to be ended.
 *
 * A run takes it as far as it goes: to an end, to a park, or to a fault.
 *
 *   claimed ──► opened ──► model call ──► final and finish, one transaction
 *                 ▲            │
 *                 │            └────────► tools: outcome, requests and park, one transaction ──► parked
 *                 └── the last outcome of a parked round makes the turn ready, and it is claimed again
 *
 * The journal (`steps`) is what a run knows of those before it. A step's operation key, a hash over the turn, the step and
 * what the call depends on, is stored before the first try of the step: of a model step in the transaction that claims or
 * parks, of a tool step in the one that puts its request into the outbox. Its outcome is stored in the transaction that
 * moves the turn on. So a run finds each step finished, which is never tried again, or open: a model step is asked again;
 * a tool step is waited for, and nobody but the executor decides about a second try, by the key: one whose outcome a crash
 * has hidden is `unknown` unless the tool says that it is idempotent, and then it gets the key with the call.
 *
 * One writer a session (delivery rule 18): the holder of the lane writes openings, deltas and tool.started directly, the
 * end through the outbox in the transaction that ends its turn. While a turn is parked nobody holds its lane; the intake
 * of a tool's outcome then writes tool.result, in its transaction, under the lane's lock and through the outbox alone.
 * Whoever claims the lane later sees such a row if it is not sent yet, and sends it before its first direct record.
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
        await parts.store.finish(item, lease, {
          step: 0,
          outcome: undefined,
          sessionId: payload.session_id,
          history: undefined,
          state: 'failed',
          error: `${known.code}: ${known.message}`,
          message: assistantError(identityOf(item, payload), item.attempt, known),
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

/** What a run has at hand. */
interface Run {
  readonly parts: TurnParts;
  readonly item: WorkItem;
  readonly payload: TurnPayload;
  readonly turn: TurnIdentity;
  readonly lease: Lease;
  readonly opened: OpenedTurn;
  readonly persona: Persona;
  readonly limits: TurnLimits;
  readonly answer: AnswerStream;
  /** Aborts on stop, a lost lease, or a delta that could not be sent. */
  readonly signal: AbortSignal;
  readonly timeUp: AbortSignal;
  readonly cancelled: AbortSignal;
  readonly startedAt: number;
  /** As far as the turn has come here. */
  progress: { readonly steps: readonly Step[]; readonly round: ModelRound | undefined };
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

function elapsedMs({ opened, startedAt }: Run): number {
  return opened.elapsedMs + (performance.now() - startedAt);
}

/** Rounds until the turn ends or is parked. */
async function runRounds(run: Run): Promise<void> {
  const { opened, answer, parts } = run;
  const model = await parts.models.get(run.persona.modelProfile, opened.profiles);
  for (;;) {
    const { steps } = run.progress;
    run.cancelled.throwIfAborted();
    const before = summarize(steps);
    const step = nextStep(steps);
    if (run.timeUp.aborted) return await finish(run, before, undefined, step, 'max_turn_time');
    // The places of what is not built yet: recall adds to `system`, budgets reserve here, policy filters the tools.
    const round = await callModel({
      model,
      request: {
        system: run.persona.systemPrompt,
        messages: conversationOf(opened.history, run.payload.message, before.messages),
        tools: opened.tools,
        maxOutputTokens: Math.max(1, run.limits.maxOutputTokens - before.outputTokens),
      },
      answer,
      signal: run.signal,
      timeUp: run.timeUp,
      cancelled: run.cancelled,
      attributes: {
        [attribute.turnId]: run.item.id,
        [attribute.eventId]: run.payload.event_id,
        'signalbox.step': step,
      },
      onFirstToken: () => {
        if (step === 0) parts.metrics.firstToken(performance.now() - run.startedAt);
      },
    });
    failPoint('turn.step_done');
    const { outcome } = round;
    run.progress = { steps, round };
    parts.metrics.tokens(outcome.model, outcome.input_tokens, outcome.output_tokens);
    if (round.end === 'cancelled') throw run.cancelled.reason;
    const done: Step = { kind: 'model', step, operationKey: '', outcome };
    const summary = summarize([...steps, done]);
    const after = decide(run, summary, round.end, outcome.calls.length);
    if (after.next === 'end') return await finish(run, summary, round, step, after.reason);
    // An answer that is whole stands; no tool is asked any more.
    run.cancelled.throwIfAborted();
    const asked = await storeRound(run, round, step);
    if (asked.some(({ outcome: known }) => known === null)) return;
    run.progress = { steps: [...steps, done, ...asked], round: undefined };
  }
}

function decide(
  run: Run,
  summary: JournalSummary,
  end: Exclude<ModelRound['end'], 'cancelled'>,
  calls: number,
): AfterRound {
  if (end === 'max_turn_time') return { next: 'end', reason: 'max_turn_time' };
  return afterRound(summary, end, calls, run.limits);
}

/** Ends a round of tools. Answers its tool steps: those without an outcome are waited for, and the turn is parked. */
async function storeRound(run: Run, { outcome }: ModelRound, step: number): Promise<Step[]> {
  const { parts, item, turn, opened, lease } = run;
  const { steps, shown, requests } = requestTools({
    turn,
    attempt: item.attempt,
    firstStep: step + 1,
    calls: outcome.calls,
    tools: opened.tools,
    toolWaitMs: parts.toolWaitMs,
    leftMs: run.limits.maxTurnMs - elapsedMs(run),
    nowMs: Date.now(),
  });
  for (const record of shown) run.answer.tell(record);
  await run.answer.drain();
  await parts.store.storeRound(item, lease, { step, outcome, toolSteps: steps, messages: requests });
  parts.log.debug('turn.tools_requested', { turnId: item.id, step, calls: steps.length });
  return steps.map(({ step: at, callId, input, outcome: known }) => ({
    kind: 'tool',
    step: at,
    operationKey: callId,
    input,
    outcome: known ?? null,
  }));
}

/** The final: the whole text, equal to its deltas, all of which are acknowledged by now. */
async function finish(
  run: Run,
  summary: JournalSummary,
  round: ModelRound | undefined,
  step: number,
  endReason: EndReason,
): Promise<void> {
  const { parts, item, payload, turn, lease } = run;
  await run.answer.drain();
  failPoint('turn.deltas_acknowledged');
  // Calls that a limit kept from running are no part of the history: every call in it has its result.
  const spoken = round === undefined ? summary.messages : summary.messages.slice(0, -1);
  const last =
    round === undefined || round.outcome.text === ''
      ? []
      : [{ role: 'assistant' as const, text: round.outcome.text, toolCalls: [] }];
  const messages = [{ role: 'user' as const, text: payload.message }, ...spoken, ...last];
  await parts.store.finish(item, lease, {
    step,
    outcome: round?.outcome,
    sessionId: payload.session_id,
    history: { messages, tokens: turnTokens(messages) },
    state: 'done',
    error: undefined,
    message: assistantFinal(turn, item.attempt, {
      text: summary.text,
      endReason,
      model: summary.model ?? '',
      inputTokens: summary.inputTokens,
      outputTokens: summary.outputTokens,
    }),
  });
  const ms = elapsedMs(run);
  parts.metrics.ended(endReason, ms);
  parts.log.info('turn.finished', {
    turnId: item.id,
    attempt: item.attempt,
    endReason,
    rounds: summary.rounds,
    toolCalls: summary.toolCalls,
    ms: Math.round(ms),
  });
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
