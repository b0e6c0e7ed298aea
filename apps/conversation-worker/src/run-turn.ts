import { type EndReason, isDeltaEvent } from '@signalbox/contracts/conversation-outbound';
import { headerNames, type RecordHeaders } from '@signalbox/contracts/headers';
import { asFault, fault } from '@signalbox/faults/fault';
import { failPoint } from '@signalbox/lifecycle/fail-point';
import type { Outbox } from '@signalbox/messaging/messaging';
import { type DirectRecord, toRecord } from '@signalbox/messaging/outgoing';
import { runWithContext } from '@signalbox/telemetry/context';
import type { Logger } from '@signalbox/telemetry/telemetry';
import { attribute, currentTraceparent, startSpan, withSpan } from '@signalbox/telemetry/trace';
import type { Lease, WorkItem } from '@signalbox/work/worker';
import { AnswerStream, type StreamRecord } from './answer-stream.ts';
import { callModel, type ModelRound } from './call-model.ts';
import { conversationOf, turnTokens } from './history-window.ts';
import type { Models } from './models.ts';
import type { OpenedTurn, Persona, TurnPayload } from './opened-turn.ts';
import { requestTools } from './request-tools.ts';
import { assistantError, assistantFinal, directEvent, type TurnIdentity } from './turn-events.ts';
import { type JournalSummary, nextStep, type Step, summarize } from './turn-journal.ts';
import { afterRound, limitsOf, type TurnLimits } from './turn-limits.ts';
import type { TurnMetrics } from './turn-metrics.ts';
import type { TurnStore } from './turn-store.ts';

export interface TurnParts {
  readonly store: TurnStore;
  readonly models: Models;
  readonly outbox: Outbox;
  /** Sends past the outbox; resolves when the broker has it. */
  direct(record: DirectRecord, signal: AbortSignal): Promise<unknown>;
  /** The start of a run that came with its claim, if it did. */
  takeOpened(item: WorkItem): OpenedTurn | undefined;
  readonly limits: TurnLimits;
  readonly maxAttempts: number;
  readonly toolWaitMs: number;
  readonly coalesceMs: number;
  readonly service: string;
  readonly log: Logger;
  readonly metrics: TurnMetrics;
}

/** How long the opening of a run waits for the first piece, to go out in one request with it. */
const openingWaitMs = 5;

/**
 * Runs a claimed turn as far as it goes: to its end, to a park, or to a fault.
 *
 *   claimed ──► opened ──► model call ──► end: final and finish, one transaction, under the lane's lock
 *                 ▲            │
 *                 │            └────────► tools: outcome, requests and park, one transaction ──► parked (run ends)
 *                 └── the last outcome of a parked round makes the turn ready, and it is claimed again
 *
 * Opened: the journal tells which steps are finished, and its last step is the one to run. What the client is told first:
 *   - the first run of a turn: turn.started
 *   - a further run of the same attempt (back from a park): nothing, the deltas go on behind those already there
 *   - the first run of a later attempt: turn.resumed {keep_chars: 0}, then the finished steps' text as one delta
 *
 * One writer a session (delivery rule 18): the holder of the lane writes openings, deltas and tool.started directly, the final
 * through the outbox in the transaction that ends its turn. While a turn is parked nobody holds its lane; the intake of a
 * tool's outcome then writes tool.result, in its transaction, under the lane's lock and through the outbox alone. Whoever claims the lane later sees such a row if it is not sent yet, and sends it before its first direct record.
 *
 * Order of a holder's own records: deltas and the rows of one process share one queue a key, every delta is acknowledged
 * before a transaction that ends the round is begun, and after a lost lease nothing is sent: each send asks the lease
 * first, and the broker's log has the attempt on every record for what was under way.
 */
export function turnRunner(parts: TurnParts) {
  return {
    /** Runs the item. Throws LEASE_LOST, DRAINING (hand it over) or the fault to retry or give up for. */
    run(item: WorkItem, lease: Lease): Promise<void> {
      const payload = payloadOf(item);
      return inTurn(item, payload, () => runOpened(parts, item, payload, lease));
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
  readonly startedAt: number;
}

async function runOpened(
  parts: TurnParts,
  item: WorkItem,
  payload: TurnPayload,
  lease: Lease,
): Promise<void> {
  if (item.attempt > parts.maxAttempts) {
    // Most of these tries ended without a word: the process died with the turn. It may be the turn that kills it.
    throw fault('RETRY_BUDGET_SPENT', `the turn was given up after ${parts.maxAttempts} tries`);
  }
  const startedAt = performance.now();
  const opened = parts.takeOpened(item) ?? (await parts.store.open(item, lease, parts.limits.historyTokens));
  if (opened.persona === undefined) throw fault('NOT_FOUND', `there is no persona ${payload.persona_id}`);
  if (opened.foreignRows) await parts.outbox.adopt('conversation.outbound', item.key, lease.signal);
  tellToolWaits(item, opened);

  const limits = limitsOf(opened.persona.limits, parts.limits);
  const failed = new AbortController();
  const timeUp = new AbortController();
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
    opening: openingOf(item, payload, opened, summary),
    openingWaitMs,
    coalesceMs: parts.coalesceMs,
    send: sender(parts, turn, item.key, lease),
    onFailure: (error) => failed.abort(error),
  });
  const signal = AbortSignal.any([lease.signal, failed.signal]);
  const { persona } = opened;
  const run: Run = {
    ...{ parts, item, payload, turn, lease, opened, persona, limits, answer, signal },
    ...{ timeUp: timeUp.signal, startedAt },
  };
  try {
    await runRounds(run);
  } finally {
    clearTimeout(timer);
    // On every way out: what is in flight is acknowledged or withdrawn before the lane goes to somebody else.
    await answer.close();
  }
}

/** Rounds until the turn ends or is parked. */
async function runRounds(run: Run): Promise<void> {
  const { opened, answer, parts } = run;
  const model = await parts.models.get(run.persona.modelProfile, opened.profiles);
  let steps: readonly Step[] = opened.steps.filter(({ outcome }) => outcome !== null);
  for (;;) {
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
    parts.metrics.tokens(outcome.model, outcome.input_tokens, outcome.output_tokens);
    const done: Step = { kind: 'model', step, operationKey: '', outcome };
    const summary = summarize([...steps, done]);
    const after = decide(run, summary, round);
    if (after.next === 'end') return await finish(run, summary, round, step, after.reason);
    const asked = await storeRound(run, round, step);
    if (asked.some(({ outcome: known }) => known === null)) return;
    steps = [...steps, done, ...asked];
  }
}

function decide(run: Run, summary: JournalSummary, round: ModelRound) {
  if (round.end === 'max_turn_time') return { next: 'end', reason: 'max_turn_time' } as const;
  return afterRound(summary, round.end, round.outcome.calls.length, run.limits);
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
    leftMs: run.limits.maxTurnMs - opened.elapsedMs - (performance.now() - run.startedAt),
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
  const ms = run.opened.elapsedMs + (performance.now() - run.startedAt);
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

function openingOf(
  item: WorkItem,
  payload: TurnPayload,
  { steps }: OpenedTurn,
  summary: JournalSummary,
): StreamRecord[] {
  const turn = { turn_id: item.id, attempt: item.attempt };
  // A model step that this attempt has finished: its run has told the opening.
  if (
    steps.some(
      ({ kind, outcome, attempt }) => kind === 'model' && outcome !== null && attempt === item.attempt,
    )
  ) {
    return [];
  }
  if (item.attempt === 1) {
    const value = { ...turn, persona_id: payload.persona_id, message_event_id: payload.event_id };
    return [{ eventType: 'turn.started', value }];
  }
  const resumed: StreamRecord = { eventType: 'turn.resumed', value: { ...turn, keep_chars: 0 } };
  if (summary.text === '') return [resumed];
  return [resumed, { eventType: 'assistant.delta', value: { ...turn, at: 0, text: summary.text } }];
}

/** Sends the records of a run: events with all headers, deltas with three (delivery rule 4). */
function sender(parts: TurnParts, turn: TurnIdentity, key: string, lease: Lease) {
  const traceparent = currentTraceparent();
  // On a stop what is in flight comes to its end; a lost lease withdraws what the broker has not yet.
  const lost = new AbortController();
  lease.signal.addEventListener('abort', () => {
    if (!lease.holds()) lost.abort(lease.signal.reason);
  });
  return async (record: StreamRecord): Promise<void> => {
    if (!lease.holds()) throw fault('LEASE_LOST', 'the lease has run out');
    const event = directEvent(turn, record);
    const headers = isDeltaEvent(record.eventType)
      ? deltaHeaders(record.eventType, event.schema, traceparent)
      : toRecord(event, traceparent, parts.service).headers;
    await parts.direct({ topic: event.topic, key, headers, value: record.value }, lost.signal);
  };
}

function deltaHeaders(eventType: string, schema: string, traceparent: string | undefined): RecordHeaders {
  const headers: RecordHeaders = { [headerNames.eventType]: eventType, [headerNames.schema]: schema };
  if (traceparent !== undefined) headers[headerNames.traceparent] = traceparent;
  return headers;
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
