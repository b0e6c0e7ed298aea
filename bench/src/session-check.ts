import type { StreamEvent } from './client.ts';

interface OpenTurn {
  postedAtMs: number;
  firstDeltaMs?: number;
  lastDeltaAtMs?: number;
  gapsMs: number[];
  points: number;
  finals: number;
  finished: PromiseWithResolvers<void>;
}

/**
 * Follows what a client of one session sees and checks it while it measures: stream ids rise, deltas join without a
 * hole or an overlap, the final is as long as its deltas and comes once. One turn at a time.
 */
export class SessionCheck {
  readonly faults: string[] = [];
  readonly firstDeltasMs: number[] = [];
  readonly gapsMs: number[] = [];
  deltas = 0;
  finals = 0;
  private lastId: readonly [number, number] = [0, -1];
  private turn: OpenTurn | undefined;
  /** Floors send neither ids nor positions, so only arrival is looked at there. */
  private readonly bare: boolean;

  constructor(options: { bare: boolean }) {
    this.bare = options.bare;
  }

  /** Call right before the POST is sent; the promise settles at the turn's final or error event. */
  begin(): Promise<void> {
    const finished = Promise.withResolvers<void>();
    this.turn = { postedAtMs: performance.now(), gapsMs: [], points: 0, finals: 0, finished };
    return finished.promise;
  }

  see(event: StreamEvent): void {
    if (!this.bare) this.checkId(event);
    const turn = this.turn;
    if (turn === undefined) return;
    if (event.type === 'assistant.delta') this.seeDelta(turn, event);
    else if (event.type === 'assistant.final') this.seeFinal(turn, event);
    else if (event.type === 'assistant.error') {
      this.faults.push(`turn failed: ${event.data.slice(0, 200)}`);
      turn.finished.resolve();
    }
  }

  private checkId(event: StreamEvent): void {
    const [epoch = 0, offset = 0] = event.id.split('-').map(Number);
    const [lastEpoch, lastOffset] = this.lastId;
    if (epoch < lastEpoch || (epoch === lastEpoch && offset <= lastOffset)) {
      this.faults.push(`id ${event.id} after ${lastEpoch}-${lastOffset}`);
    }
    this.lastId = [epoch, offset];
  }

  private seeDelta(turn: OpenTurn, event: StreamEvent): void {
    this.deltas += 1;
    if (turn.firstDeltaMs === undefined) {
      turn.firstDeltaMs = event.atMs - turn.postedAtMs;
      this.firstDeltasMs.push(turn.firstDeltaMs);
    } else if (turn.lastDeltaAtMs !== undefined) {
      this.gapsMs.push(event.atMs - turn.lastDeltaAtMs);
    }
    turn.lastDeltaAtMs = event.atMs;
    if (this.bare) return;
    const { at, text }: { at: number; text: string } = JSON.parse(event.data);
    if (at !== turn.points) this.faults.push(`delta at ${at}, expected ${turn.points}`);
    turn.points = at + [...text].length;
  }

  private seeFinal(turn: OpenTurn, event: StreamEvent): void {
    this.finals += 1;
    turn.finals += 1;
    if (turn.finals > 1) this.faults.push('a second final');
    if (!this.bare) {
      const { length }: { length: number } = JSON.parse(event.data);
      if (length !== turn.points)
        this.faults.push(`final of ${length} code points, deltas of ${turn.points}`);
    }
    turn.finished.resolve();
  }
}
