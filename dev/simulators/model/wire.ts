import type { Answer, Conversation } from './conversation.ts';

/** An answer with what surrounds it in either API. */
export interface Reply {
  readonly id: string;
  readonly model: string;
  /** Seconds since 1970. */
  readonly createdAt: number;
  readonly answer: Answer;
  /** The token limit cut the text. */
  readonly cut: boolean;
  readonly inputTokens: number;
  readonly outputTokens: number;
}

/** One server-sent event; those that carry a token are paced and counted by the faults. */
export interface StreamPiece {
  readonly bytes: string;
  readonly token: boolean;
}

/** How one API writes what the rules decide. */
export interface Wire {
  read(body: Readonly<Record<string, unknown>>): Conversation;
  whole(reply: Reply): unknown;
  pieces(reply: Reply, body: Readonly<Record<string, unknown>>): StreamPiece[];
  /** An event whose data is no JSON. */
  readonly malformedPiece: string;
  failure(status: number, message: string): unknown;
}
