import { fault } from '@signalbox/faults/fault';
import type { Outbox } from '@signalbox/messaging/messaging';
import type { OutgoingMessage } from '@signalbox/messaging/outgoing';
import type { ModelMessage } from '@signalbox/model/model-port';
import type { Logger } from '@signalbox/telemetry/telemetry';
import type { Lease, WorkItem } from '@signalbox/work/worker';
import type { AnswerStream } from './answer-stream.ts';
import type { ModelRound } from './call-model.ts';
import { estimateTokens, turnTokens } from './history-window.ts';
import type { TurnCancel } from './intake-store.ts';
import type { TurnPayload } from './opened-turn.ts';
import { withdrawOnLoss } from './send-records.ts';
import { taskCancelRequested } from './task-events.ts';
import { turnEnded } from './turn-ended.ts';
import { directEvent, type TurnIdentity, toolCancelRequested, turnCancelled } from './turn-events.ts';
import { type ModelOutcome, nextStep, type Step, summarize } from './turn-journal.ts';
import type { TurnMetrics } from './turn-metrics.ts';
import { openingOf } from './turn-opening.ts';
import type { TurnEnd, TurnStore } from './turn-store.ts';

export interface CancelParts {
  readonly store: TurnStore;
  readonly outbox: Pick<Outbox, 'adopt'>;
  readonly log: Logger;
  readonly metrics: TurnMetrics;
  /** Gives the item to whoever claims it next, as a new attempt. */
  handOver(item: WorkItem, lease: Lease): Promise<void>;
}

/** A cancelled turn and its holder. */
export interface CancelledTurn {
  readonly item: WorkItem;
  readonly payload: TurnPayload;
  readonly turn: TurnIdentity;
  readonly lease: Lease;
  readonly cancel: TurnCancel;
}

/** A run that a cancel has stopped, as far as it came. */
export interface CutShort {
  readonly answer: AnswerStream;
  /** Takes back what the broker does not have yet. */
  readonly withdraw: AbortController;
  /** The answer from before the run. */
  readonly textBefore: string;
  /** Those with an outcome, before the round that was cut short. */
  readonly steps: readonly Step[];
  /** Undefined: no model was being asked, or it failed at the same moment. */
  readonly round: ModelRound | undefined;
  /** Since the first claim. */
  elapsedMs(): number;
}

/** For what must be acknowledged first; as long as the outbox waits for the broker before it leaves rows to the relay. */
const drainMs = 2_000;
const toolOutcome = {
  outcome: 'cancelled',
  output: '',
  truncated: false,
  error_code: 'TOOL_CANCELLED',
  message: 'the turn was cancelled',
};

/**
 * Ends a turn whose run was stopped by its cancel. The answer is what its deltas say, so those come first: the pieces that
 * the model has given are sent and acknowledged, then turn.cancelled enters the outbox with their text.
 *
 * If they cannot be acknowledged in time, nobody knows how much of them the log has. The turn is then handed over, to this
 * process or another, as a new attempt, whose stream begins anew and which `endFromJournal` ends.
 */
export async function endCutShort(parts: CancelParts, ended: CancelledTurn, cut: CutShort): Promise<void> {
  const { item, lease } = ended;
  if (!(await allAcknowledged(cut, lease))) {
    if (!lease.holds()) throw fault('LEASE_LOST', 'the lease has run out');
    parts.log.warning('turn.cancel_handed_over', { turnId: item.id, attempt: item.attempt });
    return await parts.handOver(item, lease);
  }
  const step = nextStep(cut.steps);
  const outcome = lastOutcome(cut);
  const last: Step[] = outcome === undefined ? [] : [{ kind: 'model', step, operationKey: '', outcome }];
  await store(parts, ended, {
    steps: [...cut.steps, ...last],
    ...{ step, outcome, opening: [], requests: [], elapsedMs: cut.elapsedMs() },
  });
}

/** Of the round that was cut short: its text as the deltas have it, and nothing of what it asked for. */
function lastOutcome({ answer, textBefore, steps, round }: CutShort): ModelOutcome | undefined {
  const text = (textBefore + answer.text).slice(summarize(steps).text.length);
  if (round !== undefined) return { ...round.outcome, text, calls: [] };
  if (text === '') return undefined;
  return {
    ...{ text, thinking_length: answer.thinkingLength, calls: [], end: 'cancelled', model: '' },
    ...{ input_tokens: 0, output_tokens: estimateTokens(text) },
  };
}

/**
 * Ends a turn that does not run: it was parked, waited for another try, or its holder is gone. What stands of its answer
 * is the text of its finished steps. For a new attempt the stream is opened as a run would do it, through the outbox in
 * the same transaction: turn.resumed, the text, turn.cancelled. Tools that were asked and tasks that were delegated and have
 * not ended are told that nobody waits for them.
 */
export async function endFromJournal(parts: CancelParts, ended: CancelledTurn): Promise<void> {
  const { item, payload, turn, lease } = ended;
  const { steps, elapsedMs, foreignRows } = await parts.store.readJournal(item, lease);
  if (foreignRows) await sendRowsOfOthers(parts, item, lease);
  // A first attempt that has finished no step has told nothing: its claim was lost on the way.
  const opening = item.attempt === 1 ? [] : openingOf(item, payload, steps, summarize(steps));
  await store(parts, ended, {
    steps: steps.map(asEnded).filter(({ outcome }) => outcome !== null),
    ...{ step: nextStep(steps), outcome: undefined, elapsedMs },
    opening: opening.map((record) => directEvent(turn, record)),
    requests: steps.flatMap((each) => {
      if (each.kind === 'model' || each.outcome !== null) return [];
      const { step, operationKey, input } = each;
      if (input.task !== undefined)
        return [taskCancelRequested(turn, input.task.task_id, toolOutcome.message)];
      return [toolCancelRequested(turn, { step, callId: operationKey, tool: input.tool })];
    }),
  });
}

/** As before a run (delivery rule 19), for then the end goes out at once. If they cannot be sent now it is the relay's. */
async function sendRowsOfOthers({ outbox, log }: CancelParts, item: WorkItem, lease: Lease): Promise<void> {
  try {
    const signal = AbortSignal.any([lease.signal, AbortSignal.timeout(drainMs)]);
    await outbox.adopt('conversation.outbound', item.key, signal);
  } catch (error) {
    log.debug('turn.rows_left_to_relay', { turnId: item.id, error });
  }
}

function asEnded(step: Step): Step {
  if (step.kind === 'model' || step.outcome !== null) return step;
  return { ...step, outcome: { ...toolOutcome, duration_ms: 0 } };
}

interface HowItStands {
  /** Those that have an outcome now. */
  readonly steps: readonly Step[];
  readonly step: number;
  readonly outcome: ModelOutcome | undefined;
  readonly opening: readonly OutgoingMessage[];
  readonly requests: readonly OutgoingMessage[];
  readonly elapsedMs: number;
}

async function store(parts: CancelParts, ended: CancelledTurn, stands: HowItStands): Promise<void> {
  const { item, payload, turn, lease, cancel } = ended;
  const { step, outcome, opening, requests, elapsedMs } = stands;
  const { text, textLength, messages } = summarize(stands.steps);
  await parts.store.end(item, lease, {
    ...{ step, outcome, toolOutcome, state: 'cancelled' },
    sessionId: payload.session_id,
    history: historyOf(payload.message, messages),
    messages: [
      ...opening,
      turnCancelled(turn, item.attempt, cancel, text),
      ...requests,
      ...turnEnded(turn, payload, { outcome: 'cancelled', text }),
    ],
  });
  parts.metrics.ended('cancelled', elapsedMs);
  parts.log.info('turn.cancelled', {
    ...{ turnId: item.id, attempt: item.attempt, cause: cancel.cause, by: cancel.by },
    ...{ length: textLength, ms: Math.round(elapsedMs) },
  });
}

/** What was said and done, for the turns to come: the message alone, which nothing answered, is not kept. */
function historyOf(message: string, answer: readonly ModelMessage[]): TurnEnd['history'] {
  const spoken = answer.filter(
    (each) => each.role !== 'assistant' || each.text !== '' || each.toolCalls.length > 0,
  );
  if (spoken.length === 0) return undefined;
  const messages: ModelMessage[] = [{ role: 'user', text: message }, ...spoken];
  return { messages, tokens: turnTokens(messages) };
}

/** Whether the log has all that the model gave. */
async function allAcknowledged({ answer, withdraw }: CutShort, lease: Lease): Promise<boolean> {
  withdrawOnLoss(lease, withdraw);
  const late = fault('KAFKA_UNAVAILABLE', 'the last deltas were not acknowledged in time');
  const timer = setTimeout(() => withdraw.abort(late), drainMs);
  try {
    await answer.drain();
    return true;
  } catch {
    return false;
  } finally {
    clearTimeout(timer);
    await answer.close();
  }
}
