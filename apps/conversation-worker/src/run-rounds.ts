import type { EndReason } from '@signalbox/contracts/conversation-outbound';
import { failPoint } from '@signalbox/lifecycle/fail-point';
import type { Outbox } from '@signalbox/messaging/messaging';
import { attribute } from '@signalbox/telemetry/trace';
import type { Lease, WorkItem } from '@signalbox/work/worker';
import type { AnswerStream } from './answer-stream.ts';
import { callModel, type ModelRound } from './call-model.ts';
import type { CancelParts } from './cancel-turn.ts';
import { type Delegation, delegateTool } from './delegate-tool.ts';
import { conversationOf, turnTokens } from './history-window.ts';
import { memoriesOf } from './memory-writes.ts';
import type { Models } from './models.ts';
import type { OpenedTurn, Persona, TurnPayload } from './opened-turn.ts';
import { type Recall, type Recaller, systemPrompt } from './recall.ts';
import { requestTools } from './request-tools.ts';
import type { SendingParts } from './send-records.ts';
import { turnEnded } from './turn-ended.ts';
import { assistantFinal, memoryRecalled, type TurnIdentity } from './turn-events.ts';
import { type JournalSummary, nextStep, type Step, summarize } from './turn-journal.ts';
import { type AfterRound, afterRound, type TurnLimits } from './turn-limits.ts';

export interface TurnParts extends CancelParts, SendingParts {
  readonly models: Models;
  readonly outbox: Outbox;
  /** The start of a run that came with its claim, if it did. */
  takeOpened(item: WorkItem): OpenedTurn | undefined;
  readonly limits: TurnLimits;
  readonly maxAttempts: number;
  readonly toolWaitMs: number;
  readonly recaller: Recaller;
  readonly delegation: Pick<Delegation, 'maxDepth' | 'waitMs'>;
  readonly coalesceMs: number;
}

/** What a run has at hand. */
export interface Run {
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

/** Since the first claim. */
export function elapsedMs({ opened, startedAt }: Run): number {
  return opened.elapsedMs + (performance.now() - startedAt);
}

/** Rounds until the turn ends or is parked. */
export async function runRounds(run: Run): Promise<void> {
  const { opened, answer, parts } = run;
  const model = await parts.models.get(run.persona.modelProfile, opened.profiles);
  const delegation = delegationOf(run);
  const delegate = delegation === undefined ? undefined : delegateTool(delegation);
  // A persona's own way to delegate comes before a tool of that name.
  const others =
    delegate === undefined ? opened.tools : opened.tools.filter(({ name }) => name !== delegate.name);
  const tools = delegate === undefined ? others : [...others, delegate];
  for (;;) {
    const { steps } = run.progress;
    run.cancelled.throwIfAborted();
    const before = summarize(steps);
    const step = nextStep(steps);
    if (run.timeUp.aborted) return await finish(run, before, undefined, step, 'max_turn_time');
    const recall = before.rounds === 0 ? await recallFirst(run) : before.recall;
    // The places of what is not built yet: budgets reserve here, policy filters the tools.
    const called = await callModel({
      model,
      request: {
        system: systemPrompt(run.persona.systemPrompt, recall),
        messages: conversationOf(opened.history, run.payload.message, before.messages),
        tools,
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
    const round = before.rounds === 0 ? withRecall(called, recall) : called;
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
    const asked = await storeRound(run, round, step, delegation);
    if (asked.some(({ outcome: known }) => known === null)) return;
    run.progress = { steps: [...steps, done, ...asked], round: undefined };
  }
}

/**
 * What the turn remembers, asked before its first model call and told to the client; nothing where its persona does not
 * recall. It is stored with that call's outcome: rounds that follow, and whoever takes the turn over after it, use the
 * same memories; one who takes it over before asks again.
 */
async function recallFirst(run: Run): Promise<Recall | undefined> {
  const { parts, item, payload, persona, turn } = run;
  if (!persona.memory.recall) return undefined;
  const recall = await parts.recaller.recall({
    ...{ tenant: item.tenant, sessionId: payload.session_id, turnId: item.id, requestId: turn.requestId },
    ...{ message: payload.message, settings: persona.memory },
    signal: AbortSignal.any([run.signal, run.cancelled]),
  });
  run.answer.tellNow(memoryRecalled(item.id, item.attempt, recall));
  return recall;
}

function withRecall(round: ModelRound, recall: Recall | undefined): ModelRound {
  return recall === undefined ? round : { ...round, outcome: { ...round.outcome, recall } };
}

/** Tasks of a conversation are the first level; those of a turn that carries out a task are one deeper than it. */
function delegationOf({ parts, persona, payload }: Run): Delegation | undefined {
  if (persona.delegates.length === 0) return undefined;
  const own = payload.delegation;
  return {
    ...{ targets: persona.delegates, depth: own === undefined ? 0 : own.depth + 1, ...parts.delegation },
    parentTaskId: own?.task_id,
  };
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
async function storeRound(
  run: Run,
  { outcome }: ModelRound,
  step: number,
  delegation: Delegation | undefined,
): Promise<Step[]> {
  const { parts, item, turn, opened, lease } = run;
  const { steps, shown, requests } = requestTools({
    turn,
    attempt: item.attempt,
    firstStep: step + 1,
    calls: outcome.calls,
    tools: opened.tools,
    toolWaitMs: parts.toolWaitMs,
    delegation,
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
  const { parts, item, payload, turn, lease, persona } = run;
  await run.answer.drain();
  failPoint('turn.deltas_acknowledged');
  // Calls that a limit kept from running are no part of the history: every call in it has its result.
  const spoken = round === undefined ? summary.messages : summary.messages.slice(0, -1);
  const last =
    round === undefined || round.outcome.text === ''
      ? []
      : [{ role: 'assistant' as const, text: round.outcome.text, toolCalls: [] }];
  const messages = [{ role: 'user' as const, text: payload.message }, ...spoken, ...last];
  const { text, model = '', inputTokens, outputTokens } = summary;
  const remembered = memoriesOf(
    {
      ...{
        turn,
        personaId: payload.persona_id,
        message: payload.message,
        answer: text,
        steps: run.progress.steps,
      },
      ...{ postedAtMs: item.enqueuedAt.getTime(), endedAtMs: Date.now() },
    },
    persona.memory,
  );
  await parts.store.end(item, lease, {
    ...{ step, outcome: round?.outcome, sessionId: payload.session_id, state: 'done' },
    history: { messages, tokens: turnTokens(messages) },
    messages: [
      assistantFinal(turn, item.attempt, { text, endReason, model, inputTokens, outputTokens }),
      ...(remembered === undefined ? [] : [remembered]),
      ...turnEnded(turn, payload, {
        ...{ outcome: 'final', text, end_reason: endReason, model },
        usage: { input_tokens: inputTokens, output_tokens: outputTokens },
      }),
    ],
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
