import { randomBytes } from 'node:crypto';

/**
 * plain: text alone. spoken: text, then a tool, then text. tool: a tool that may run again. once: one that may not.
 * delegated: a task of another persona, then text; only where the side services run.
 */
export type MessageKind = 'plain' | 'spoken' | 'tool' | 'once' | 'delegated';
export const messageKinds: readonly MessageKind[] = ['plain', 'spoken', 'tool', 'once'];

/** A message that the stand-in model answers in a way that is known beforehand and given to no other message. */
export interface Message {
  readonly kind: MessageKind;
  readonly token: string;
  readonly text: string;
  /** What its final must say. */
  readonly answer: RegExp;
  readonly tool: 'count' | 'count_once' | undefined;
  /** Its ends that keep the promise. */
  readonly mayEnd: readonly MessageEnd[];
}

export type MessageEnd = 'assistant.final' | 'turn.cancelled' | 'turn.rejected';

export const tokenForm = /tok-[0-9a-f]{12}/g;

export interface MessageOptions {
  readonly toolLog: string;
  /** How long its tool takes after its effect. */
  readonly toolMs?: number;
  /** Words of its text, each a token of the model's pace; 8 when left out. */
  readonly words?: number;
  /** For a message that may be cancelled, interrupted or rejected. Else nothing but its answer is an end of it. */
  readonly mayEnd?: readonly MessageEnd[];
}

export function makeMessage(kind: MessageKind, options: MessageOptions): Message {
  const token = `tok-${randomBytes(6).toString('hex')}`;
  const words = Array.from({ length: options.words ?? 8 }, (_, index) => `w${index}`).join(' ');
  const tool =
    kind === 'plain' || kind === 'delegated' ? undefined : kind === 'once' ? 'count_once' : 'count';
  const call = `use ${tool} with ${JSON.stringify({ file: options.toolLog, token, ms: options.toolMs ?? 0 })}`;
  const told = `The ${tool} says ${kind === 'once' ? `(?:counted ${token}|\\[unknown\\] [^.]*)` : `counted ${token}`}\\.`;
  const text: Record<MessageKind, string> = {
    plain: `say ${token} ${words}`,
    spoken: `say first ${token} ${words}; ${call} then say done ${token} ${words}`,
    tool: `${call} then say done ${token} ${words}`,
    once: `${call} then say done ${token} ${words}`,
    delegated: `delegate to researcher: say found ${token} then say done ${token} ${words}`,
  };
  const answer: Record<MessageKind, RegExp> = {
    plain: new RegExp(`^${token} ${words}$`),
    spoken: new RegExp(`^first ${token} ${words}${told} done ${token} ${words}$`),
    tool: new RegExp(`^${told} done ${token} ${words}$`),
    once: new RegExp(`^${told} done ${token} ${words}$`),
    delegated: new RegExp(`^The delegate says found ${token}\\. done ${token} ${words}$`),
  };
  const mayEnd = options.mayEnd ?? ['assistant.final'];
  return { kind, token, text: text[kind], answer: answer[kind], tool, mayEnd };
}
