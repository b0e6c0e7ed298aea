import { isDeltaEvent } from '@signalbox/contracts/conversation-outbound';
import { fault } from '@signalbox/faults/fault';
import { cleanText, countCodePoints, cutBefore, endsInsidePair } from './code-points.ts';

export type PieceKind = 'assistant.delta' | 'assistant.thinking';

/** A record for the session's stream, without the headers that all of a turn's records share. */
export interface StreamRecord {
  readonly eventType:
    | PieceKind
    | 'turn.started'
    | 'turn.resumed'
    | 'memory.recalled'
    | 'tool.started'
    | 'tool.result';
  readonly value: Readonly<Record<string, unknown>>;
}

export interface AnswerStreamOptions {
  readonly turnId: string;
  readonly attempt: number;
  /** Code points of the answer (and of the thinking) that earlier rounds have put into the stream. */
  readonly textBefore: number;
  readonly thinkingBefore: number;
  /** Sent ahead of the first piece, in one request with it when that comes within `openingWaitMs`. */
  readonly opening: readonly StreamRecord[];
  readonly openingWaitMs: number;
  /** The least time from one record with text to the next. */
  readonly coalesceMs: number;
  /** Resolves when the broker has the record. Records of one tick go out as one request, in order. */
  send(record: StreamRecord): Promise<unknown>;
  /** Called once when a record could not be sent: the turn must stop. */
  onFailure(error: unknown): void;
}

/** A longer piece is cut: what gathered behind a slow broker must still fit into a record. */
const longestPieceUnits = 65_536;

/**
 * The deltas of one run of a turn.
 *
 * A piece that finds the stream idle goes out at once. While its record is on the way to the broker, or `coalesceMs` have
 * not passed since it left, what arrives is gathered and goes as one record after that: so a turn has at most one record
 * in flight, a slow broker makes records longer and not more, and the text of a fast model costs some 80 records a second.
 *
 * A record is never cut inside a code point: the first half of a surrogate pair at the end of what was gathered waits for
 * its second. `text` is what the records hold, joined, and nothing else; the final answer is made from it.
 */
export class AnswerStream {
  readonly #options: AnswerStreamOptions;
  #opening: readonly StreamRecord[];
  /** Cut and told, to go out together as soon as nothing is in flight. */
  #ready: StreamRecord[] = [];
  /** Gathered and not sent, in order; neighbours are of different kinds. */
  #gathered: { kind: PieceKind; text: string }[] = [];
  #length: Record<PieceKind, number>;
  #text = '';
  #state: { at: 'idle' } | { at: 'sending' } | { at: 'failed'; error: unknown } = { at: 'idle' };
  #sending: Promise<void> = Promise.resolve();
  #notBefore = 0;
  #timer: NodeJS.Timeout | undefined;
  #draining: { resolve: () => void; reject: (error: unknown) => void }[] = [];

  constructor(options: AnswerStreamOptions) {
    this.#options = options;
    this.#opening = options.opening;
    this.#length = {
      'assistant.delta': options.textBefore,
      'assistant.thinking': options.thinkingBefore,
    };
    if (this.#opening.length > 0) {
      this.#notBefore = performance.now() + options.openingWaitMs;
      this.#wakeIn(options.openingWaitMs);
    }
  }

  /** The text of the deltas cut so far; after `flush`, of all. */
  get text(): string {
    return this.#text;
  }

  /** Code points of all thinking in the stream so far. */
  get thinkingLength(): number {
    return this.#length['assistant.thinking'];
  }

  /** Takes a piece of the answer. After a failure it is dropped: the turn is stopping. */
  push(kind: PieceKind, text: string): void {
    if (text === '' || this.#state.at === 'failed') return;
    const last = this.#gathered.at(-1);
    if (last?.kind === kind) last.text += text;
    else this.#gathered.push({ kind, text });
    // The opening waits for the first piece, not the other way round.
    if (this.#opening.length > 0) this.#notBefore = 0;
    this.#advance();
  }

  /** Cuts all that was gathered into records, for the next send. Until then half a pair at the end is held back. */
  flush(): void {
    for (let piece = this.#nextPiece(true); piece !== undefined; piece = this.#nextPiece(true))
      this.#ready.push(piece);
  }

  /** Puts an event behind the text so far; it goes out with the next drain, in one request with what is left. */
  tell(record: StreamRecord): void {
    this.flush();
    if (this.#state.at !== 'failed') this.#ready.push(record);
  }

  /** The same for what comes before a pause, such as the wait for a model: it goes out as soon as nothing is in flight. */
  tellNow(record: StreamRecord): void {
    this.tell(record);
    this.#advance();
  }

  /** Sends what is left and resolves when the broker has acknowledged every record. Throws what made a record fail. */
  drain(): Promise<void> {
    if (this.#state.at === 'failed') return Promise.reject(this.#state.error);
    this.flush();
    this.#notBefore = 0;
    return new Promise((resolve, reject) => {
      this.#draining.push({ resolve, reject });
      this.#advance();
    });
  }

  /**
   * Ends the stream without sending what is left; resolves when nothing of it is in flight any more. Never rejects, and
   * nothing is sent after it.
   */
  async close(): Promise<void> {
    this.#drop();
    await this.#sending.catch(() => undefined);
    this.#drop();
  }

  #drop(): void {
    clearTimeout(this.#timer);
    this.#opening = [];
    this.#ready = [];
    this.#gathered = [];
    if (this.#state.at === 'idle')
      this.#state = { at: 'failed', error: fault('ABORTED', 'the turn is stopping') };
  }

  #advance(): void {
    if (this.#state.at !== 'idle') return;
    const waitMs = this.#notBefore - performance.now();
    if (waitMs > 0) {
      this.#wakeIn(waitMs);
      return;
    }
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const piece = this.#ready.length > 0 ? undefined : this.#nextPiece(false);
    const records = [...this.#opening, ...this.#ready, ...(piece === undefined ? [] : [piece])];
    this.#opening = [];
    this.#ready = [];
    if (records.length === 0) {
      if (this.#gathered.length === 0) for (const { resolve } of this.#draining.splice(0)) resolve();
      return;
    }
    this.#state = { at: 'sending' };
    if (records.some(({ eventType }) => isDeltaEvent(eventType))) {
      this.#notBefore = performance.now() + this.#options.coalesceMs;
    }
    this.#sending = Promise.all(records.map((record) => this.#options.send(record))).then(
      () => {
        this.#state = { at: 'idle' };
        if (this.#draining.length > 0) this.#notBefore = 0;
        this.#advance();
      },
      (error: unknown) => this.#fail(error),
    );
  }

  /** Takes the next record out of what was gathered; undefined when there is nothing that may go yet. */
  #nextPiece(all: boolean): StreamRecord | undefined {
    const next = this.#gathered[0];
    if (next === undefined) return undefined;
    const whole = all || this.#gathered.length > 1 || !endsInsidePair(next.text);
    const available = whole ? next.text.length : next.text.length - 1;
    const cut = cutBefore(next.text.slice(0, available), longestPieceUnits);
    if (cut === 0) return undefined;
    const text = cleanText(next.text.slice(0, cut));
    next.text = next.text.slice(cut);
    if (next.text === '') this.#gathered.shift();
    const at = this.#length[next.kind];
    this.#length[next.kind] += countCodePoints(text);
    if (next.kind === 'assistant.delta') this.#text += text;
    const { turnId, attempt } = this.#options;
    return { eventType: next.kind, value: { turn_id: turnId, attempt, at, text } };
  }

  #fail(error: unknown): void {
    this.#state = { at: 'failed', error };
    this.#drop();
    for (const { reject } of this.#draining.splice(0)) reject(error);
    this.#options.onFailure(error);
  }

  #wakeIn(waitMs: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#advance(), Math.ceil(waitMs));
  }
}
