import { describeProducer } from '../test/conformance/producer-suite.ts';
import { kafkajsBus } from './kafkajs-bus.ts';

describeProducer('kafkajs', kafkajsBus);
