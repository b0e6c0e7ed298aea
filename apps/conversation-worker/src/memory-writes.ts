import { memoryIdentity } from '@signalbox/contracts/memory-ids';
import type { MemoryItem, MemoryWriteRequested } from '@signalbox/contracts/memory-writes';
import { memoryWritesSchema } from '@signalbox/contracts/memory-writes';
import type { OutgoingMessage } from '@signalbox/messaging/outgoing';
import { cleanText, cutBefore } from './code-points.ts';
import type { StepTimes } from './opened-turn.ts';
import type { MemorySettings, WrittenRole } from './persona-settings.ts';
import { outbound, type TurnIdentity } from './turn-events.ts';
import type { Step } from './turn-journal.ts';

export interface FinishedTurn {
  readonly turn: TurnIdentity;
  readonly personaId: string;
  readonly message: string;
  /** When the message was taken in, epoch milliseconds: the same for every attempt. */
  readonly postedAtMs: number;
  readonly answer: string;
  readonly endedAtMs: number;
  /** Those with an outcome. A tool's outcome came with a park, so its step has been read with its times. */
  readonly steps: readonly (Step & Partial<StepTimes>)[];
}

const textUnits = 8_192;
const mostItems = 64;
/** Of all items' texts as they stand in the record, escapes and all: it stays far below what the outbox takes. */
const mostBytes = 400_000;
const dayMs = 86_400_000;

/**
 * What a finished turn leaves to be remembered: one message with what its persona's settings ask for, or undefined where
 * that is nothing. Message and answer come first, then what tools have given, as much as fits.
 *
 * The times are those of the message's row, of the tool's outcome and of the end, read once: with them each memory has its
 * id and its idempotency key here, and who stores it knows a repeat.
 */
export function memoriesOf(ended: FinishedTurn, settings: MemorySettings): OutgoingMessage | undefined {
  if (settings.write.length === 0) return undefined;
  let left = mostBytes;
  const memories: MemoryItem[] = [];
  const add = (role: WrittenRole, text: string, atMs: number) => {
    if (!settings.write.includes(role) || memories.length >= mostItems) return;
    const item = itemOf(ended, settings, role, text, atMs);
    const bytes = Buffer.byteLength(JSON.stringify(item.text));
    if (item.text.trim() === '' || bytes > left) return;
    left -= bytes;
    // Two calls that gave the same at the same moment are one memory.
    if (!memories.some(({ memory_id }) => memory_id === item.memory_id)) memories.push(item);
  };
  add('user', ended.message, ended.postedAtMs);
  add('assistant', ended.answer, ended.endedAtMs);
  for (const step of ended.steps) {
    if (step.kind !== 'tool' || step.outcome?.outcome !== 'ok') continue;
    add('tool', step.outcome.output, step.finished_ms ?? ended.endedAtMs);
  }
  if (memories.length === 0) return undefined;
  const value: MemoryWriteRequested = { memories };
  return {
    ...outbound(ended.turn, 'memory.write_requested', value),
    topic: 'memory.writes',
    schema: memoryWritesSchema,
  };
}

function itemOf(
  { turn, personaId }: FinishedTurn,
  { namespace, ttlDays }: MemorySettings,
  role: WrittenRole,
  whole: string,
  atMs: number,
): MemoryItem {
  const { tenant, sessionId, turnId } = turn;
  const text = cleanText(whole.slice(0, cutBefore(whole, textUnits)));
  const occurredAt = new Date(atMs).toISOString();
  const { memoryId, idempotencyKey } = memoryIdentity({
    tenant,
    namespace,
    sessionId,
    role,
    occurredAt,
    text,
  });
  return {
    ...{ memory_id: memoryId, idempotency_key: idempotencyKey, namespace },
    ...{ session_id: sessionId, turn_id: turnId, persona_id: personaId, role, text, occurred_at: occurredAt },
    ...(ttlDays === undefined ? {} : { expires_at: new Date(atMs + ttlDays * dayMs).toISOString() }),
  };
}
